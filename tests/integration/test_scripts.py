"""What is given to Slurm: readable, checked by shellcheck, and deaf to what a name says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Hpoctl
from servers import absent

from hpoctl.assets import read
from integration.conftest import MakeSweep

EVIL = 'it\'s "a" $(touch pwned) `touch pwned` ; touch pwned # %A \\ ü'
ONE_NODE = {"time": "5m", "sbatch": ["--nodelist=n1"]}  # as SQLite wants it


@pytest.fixture
def hpoctl(tmp_path: Path) -> Hpoctl:
    """The command line in a folder whose name is as bad as a name can be."""
    folder = tmp_path / "a $(touch pwned) 'folder' %j; x"
    folder.mkdir()
    return Hpoctl(folder)


def test_a_name_is_never_run(make_sweep: MakeSweep, tmp_path: Path) -> None:
    sweep = make_sweep(
        "sqlite",
        study=EVIL,
        mode="batch",
        trials_per_task=2,
        workers=2,
        budget={"trials": 4},
        resources={**ONE_NODE, "setup": ["export GREETING='a b'"]},
    )
    ids = sweep.submit()
    sweep.await_finished(4)
    sweep.assert_each_ran_once(4)
    tasks = sweep.await_tasks(ids, 2)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", task.name) for task in tasks)
    assert sweep.status()["study"] == EVIL
    assert sweep.ask_json("status", sweep.run_dir.path)["counts"]["complete"] == 4
    logs = {path.name for path in sweep.run_dir.logs.iterdir()}
    assert logs == {f"{task.job}_{task.index}.log" for task in tasks}
    assert not list(tmp_path.rglob("pwned"))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("backend", ["slurm", "local"])
def test_a_dry_run_prints_what_is_submitted(make_sweep: MakeSweep, backend: str) -> None:
    sweep = make_sweep(
        "sqlite", backend=backend, study=EVIL, mode="async", workers=2, resources=ONE_NODE
    )
    script = sweep.ask("submit", "sweep.yaml", "--dry-run")
    assert not (sweep.hpoctl.folder / "runs").exists()
    assert not (sweep.hpoctl.folder / "study.sqlite").exists()

    shebang, *rest = script.splitlines()
    header = [line for line in rest if line.startswith("#SBATCH ")]
    exports = re.findall(r"^export (HPOCTL_[A-Z_]+)=", script, re.MULTILINE)
    assert shebang == "#!/bin/bash"
    assert rest[: len(header)] == header
    assert bool(header) is (backend == "slurm")
    assert "HPOCTL_RUN_DIR" in exports
    worker = read("slurm/worker.sh")
    assert script.endswith(worker)
    before = script.removesuffix(worker).splitlines()[1 + len(header) :]
    assert all(line.startswith("export HPOCTL_") for line in before if line)

    sweep.submit()
    submitted = [path.read_text() for path in sweep.run_dir.path.glob("*.sh")]
    assert submitted == [script]
    sweep.ask("cancel", EVIL)


def test_shellcheck_has_nothing_to_say(make_sweep: MakeSweep, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        absent("no shellcheck: apt-get install shellcheck")
    sweep = make_sweep("sqlite", study=EVIL, resources={**ONE_NODE, "setup": ["module load x"]})
    script = tmp_path / "script.sh"
    script.write_text(sweep.ask("submit", "sweep.yaml", "--dry-run"))
    # SC2016 wonders whether the $( ) in our path, between single quotes, was meant to be run.
    argv = ["shellcheck", "--exclude=SC2016", str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
