"""What `check` and `submit` say of a storage's limits, and where SQLite is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from backends.conftest import squeue_line
from conftest import Hpoctl

from hpoctl import config
from hpoctl.control import storage
from hpoctl.errors import ConfigError
from hpoctl.study.location import Kind, Location

SWEEP = """\
study: limits
objective: hpoctl.objectives.toy
search_space: {x: {type: uniform, min: 0, max: 1}}
sampler: random
mode: async
workers: 2
budget: {trials: 6}
"""
SQLITE = SWEEP + "storage: {sqlite: study.db}\n"
MANY_NODES = "SQLite is for one machine, and 2 workers may run on several nodes"
RUNNING = squeue_line(job="7", index="0", state="RUNNING", node="n1")
SLURM = {"sbatch": "echo 7", "squeue": f"echo '{RUNNING}'", "scontrol": "exit 1"}


@pytest.fixture
def cluster(hpoctl: Hpoctl) -> Hpoctl:
    """Where Slurm takes everything and runs nothing."""
    programs = hpoctl.folder / "bin"
    programs.mkdir()
    for name, text in SLURM.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    hpoctl.env["PATH"] = f"{programs}:{hpoctl.environ['PATH']}"
    return hpoctl


def given(hpoctl: Hpoctl, text: str) -> Hpoctl:
    (hpoctl.folder / "sweep.yaml").write_text(text)
    return hpoctl


def notes(hpoctl: Hpoctl, *flags: str) -> list[str]:
    lines = hpoctl("check", "sweep.yaml", *flags).stderr.splitlines()
    return [line for line in lines if line.startswith("note: ")]


@pytest.mark.parametrize("verb", ["check", "submit"])
def test_sqlite_over_several_nodes_is_refused_with_line_and_key(cluster: Hpoctl, verb: str) -> None:
    refused = given(cluster, SQLITE)(verb, "sweep.yaml", code=2).stderr
    assert refused.startswith(f"hpoctl: sweep.yaml:8: storage.sqlite: {MANY_NODES}: ")
    for way in ("journal", "hpoctl db up", "--nodelist=NODE"):
        assert way in refused
    assert not (cluster.folder / "study.db").exists()
    assert not (cluster.folder / "runs").exists()


def test_sqlite_that_a_url_names_is_refused_too(cluster: Hpoctl) -> None:
    cluster.env["A_URL"] = f"sqlite:///{cluster.folder}/study.db"
    given(cluster, SWEEP + "storage: {url_env: A_URL}\n")
    refused = cluster("check", "sweep.yaml", code=2).stderr
    assert f"sweep.yaml:8: storage.url_env: {MANY_NODES}" in refused


@pytest.mark.parametrize(
    "flag",
    [
        "backend=local",
        "workers=1",
        "mode=sequential",
        "resources.sbatch=[--nodelist=n1]",
        "resources.sbatch=['--nodelist n1']",
    ],
)
def test_sqlite_is_taken_where_one_node_opens_it(cluster: Hpoctl, flag: str) -> None:
    said = notes(given(cluster, SQLITE), "--set", flag)
    assert "note: storage: SQLite, for workers on one machine only" in said


@pytest.mark.parametrize("nodes", ["n[1-2]", "n1,n2"])
def test_a_list_of_several_nodes_is_no_single_one(cluster: Hpoctl, nodes: str) -> None:
    flag = f"resources.sbatch=['--nodelist={nodes}']"
    given(cluster, SQLITE)("check", "sweep.yaml", "--set", flag, code=2)


def test_plan_says_in_which_modes_sqlite_is_refused(cluster: Hpoctl) -> None:
    compared = given(cluster, SQLITE)("plan", "sweep.yaml", "--json").stdout
    assert compared.count(MANY_NODES) == 2  # batch and async


def test_no_worker_is_added_to_sqlite_beside_one_that_runs(cluster: Hpoctl) -> None:
    given(cluster, SQLITE)("submit", "sweep.yaml", "--workers", "1")
    refused = cluster("workers", "add", "limits", "-n", "1", code=2).stderr
    assert MANY_NODES in refused
    (cluster.folder / "bin" / "squeue").write_text("#!/bin/sh\n")  # it has left
    cluster("workers", "add", "limits", "-n", "1")


def test_check_says_in_one_line_what_a_journal_is_good_for(hpoctl: Hpoctl) -> None:
    given(hpoctl, SWEEP)
    assert notes(hpoctl, "--backend", "local") == [
        "note: storage: a journal file, on a disk that all nodes share;"
        " good for about 32 workers and 10,000 trials"
    ]
    many = ["--set", "budget.trials=20000", "--workers", "64"]
    (note,) = notes(hpoctl, "--backend", "local", *many)
    assert note.endswith("not for 64 and 20,000: use a database")


def test_check_has_nothing_to_say_of_a_database(hpoctl: Hpoctl) -> None:
    given(hpoctl, SWEEP + "storage: {url: 'postgresql://ada@db.example/studies'}\n")
    assert notes(hpoctl, "--backend", "local") == []


def test_sqlite_on_a_shared_disk_is_for_no_node_but_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No network file system can be mounted here, so the disk of this test passes for one.
    monkeypatch.setattr(storage, "_SHARED", re.compile(re.escape(storage.file_system(tmp_path))))
    file, place = tmp_path / "sweep.yaml", Location(kind=Kind.SQLITE, url=str(tmp_path / "s.db"))

    def refuse(flag: str) -> None:
        sweep = config.load(file, [flag])
        storage.refuse_several_machines(sweep, place, 1, file, [flag])

    file.write_text(SQLITE)
    for elsewhere in ("workers=1", "resources.sbatch=[--nodelist=another]"):
        with pytest.raises(ConfigError, match="a node and this machine would share it"):
            refuse(elsewhere)
    refuse(f"resources.sbatch=[--nodelist={os.uname().nodename}]")
    refuse("backend=local")
    (note,) = storage.notes(config.load(file), place, 1)
    assert note.startswith("storage: SQLite may lose its locks on ")


def test_the_file_system_of_a_place_is_the_one_mounted_nearest(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/a / ext4 rw 0 0\nsrv:/h /home nfs4 rw 0 0\n/dev/b /home/a\\040b xfs rw 0 0\n"
    )
    assert storage.file_system(Path("/home/ada/s.db"), mounts) == "nfs4"
    assert storage.file_system(Path("/home/a b/s.db"), mounts) == "xfs"
    assert storage.file_system(Path("/homes/s.db"), mounts) == "ext4"
    assert storage.file_system(Path("/"), tmp_path / "none") == ""
