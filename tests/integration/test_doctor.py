"""`doctor` and `init` on a real Slurm, and where there is none."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from apptainer import APPTAINER
from conftest import Hpoctl
from servers import Slurm


def found(hpoctl: Hpoctl, *flags: str, code: int = 0) -> dict[str, dict[str, Any]]:
    answer = hpoctl("doctor", "--json", *flags, code=code, timeout_s=170).stdout
    return {finding["what"]: finding for finding in json.loads(answer)}


def test_a_good_site_is_ok_from_the_commands_to_a_job(hpoctl: Hpoctl, slurm: Slurm) -> None:
    hpoctl.env.update(slurm.env)
    findings = found(hpoctl, "--job")
    assert {finding["level"] for finding in findings.values()} == {"ok"}
    assert findings["partition gpu"]["text"] == "2 nodes, 4 a100 each, up to 1d"
    assert "hpoctl" in findings["python"]["text"]
    assert list(hpoctl.folder.glob(".hpoctl-doctor-*")) == []


def test_a_sweeps_container_is_looked_at_here_and_on_a_compute_node(
    hpoctl: Hpoctl, slurm: Slurm
) -> None:
    hpoctl.env.update(slurm.env)
    bring = f"export PATH={hpoctl.folder}/module:$PATH"
    resources = {"container": "train.sif", "setup": [bring], "python": sys.executable}
    tree = {
        "study": "boxed",
        "objective": "hpoctl.objectives.toy",
        "search_space": {"x": {"type": "uniform", "min": 0, "max": 1}},
        "budget": {"trials": 1},
        "resources": resources,
    }
    (hpoctl.folder / "sweep.yaml").write_text(json.dumps(tree))
    bad = found(hpoctl, "sweep.yaml", "--job", code=3)
    fails = {what for what, finding in bad.items() if finding["level"] == "fails"}
    assert fails == {"image", "container there", "python"}
    assert bad["container"]["level"] == "warning"

    (hpoctl.folder / "train.sif").touch()
    (hpoctl.folder / "module").mkdir()
    program = hpoctl.folder / "module" / "apptainer"
    program.write_text(APPTAINER)
    program.chmod(0o755)
    good = found(hpoctl, "sweep.yaml", "--job")
    assert good["image"]["text"] == f"{hpoctl.folder}/train.sif"
    assert good["python"]["text"].endswith("in the container with hpoctl")


def test_what_fails_is_code_3_with_a_way_out_and_no_password(hpoctl: Hpoctl, slurm: Slurm) -> None:
    hpoctl.env.update(slurm.env)
    hpoctl.env["HPOCTL_STORAGE"] = "postgresql://ada:s3cret-canary@127.0.0.1:1/none"
    (hpoctl.folder / ".pgpass").write_text("*:*:*:*:s3cret-canary\n")
    (hpoctl.folder / ".pgpass").chmod(0o644)
    done = hpoctl("doctor", code=3)
    assert "s3cret" not in done.stdout + done.stderr
    findings = found(hpoctl, code=3)
    assert {what for what, f in findings.items() if f["level"] == "fails"} == {
        "storage",
        "~/.pgpass",
    }
    assert findings["~/.pgpass"]["way"] == "chmod 600 ~/.pgpass"


def test_a_database_is_measured(hpoctl: Hpoctl, slurm: Slurm, database_url: str) -> None:
    hpoctl.env.update({**slurm.env, "HPOCTL_STORAGE": database_url})
    assert "ms a trip" in found(hpoctl)["storage"]["text"]


def test_packages_that_each_worker_would_compile_anew_are_a_warning(
    hpoctl: Hpoctl, slurm: Slurm, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    none_yet = {"PYTHONPYCACHEPREFIX": str(tmp_path / "kept"), "PYTHONDONTWRITEBYTECODE": ""}
    hpoctl.env.update({**slurm.env, **none_yet})
    assert found(hpoctl)["compiled"]["level"] == "ok", "it will be compiled at the first start"
    hpoctl.env["PYTHONDONTWRITEBYTECODE"] = "1"
    anew = found(hpoctl)["compiled"]
    assert (anew["level"], anew["way"]) == ("warning", "unset PYTHONDONTWRITEBYTECODE")
    assert "each start of a worker compiles it anew" in anew["text"]


def test_without_slurm_the_way_out_is_the_local_backend(hpoctl: Hpoctl, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    hpoctl.env["PATH"] = str(tmp_path / "bin")
    findings = found(hpoctl, code=3)
    assert "sbatch" in findings["commands"]["text"]
    assert findings["commands"]["way"].endswith("backend: local")


def test_init_writes_what_the_cluster_says_and_check_takes_it(hpoctl: Hpoctl, slurm: Slurm) -> None:
    hpoctl.env.update(slurm.env)
    hpoctl("init", ".")
    text = (hpoctl.folder / "sweep.yaml").read_text()
    assert "  partition: gpu   # up to 1d; there are gpu, short\n" in text
    assert "  account: lab   #" in text
    assert "  gpus: a100:1   #" in text
    hpoctl("check", "sweep.yaml")


def test_a_database_that_compute_nodes_do_not_reach_is_named_with_the_reason(
    hpoctl: Hpoctl, slurm: Slurm, postgresql_url: str
) -> None:
    """Where it is right here, and a node has another idea of where it is."""
    tree = {
        "study": "far",
        "objective": "hpoctl.objectives.toy",
        "search_space": {"x": {"type": "uniform", "min": 0, "max": 1}},
        "budget": {"trials": 1},
        "storage": {"url_env": "MY_STUDIES"},
    }
    (hpoctl.folder / "sweep.yaml").write_text(json.dumps(tree))
    hpoctl.env.update({**slurm.env, "MY_STUDIES": postgresql_url})
    good = found(hpoctl, "sweep.yaml", "--job")
    assert good["storage"]["level"] == "ok"
    assert good["database there"]["level"] == "ok"

    there = "export MY_STUDIES=postgresql://ada:s3cret-canary@127.0.0.1:1/none"
    (hpoctl.folder / "sweep.yaml").write_text(json.dumps({**tree, "resources": {"setup": [there]}}))
    done = hpoctl("doctor", "sweep.yaml", "--job", code=3, timeout_s=100)
    assert "database there" in done.stdout
    assert "refused" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr


def test_a_python_on_the_nodes_that_cannot_run_hpoctl_is_named_with_its_words(
    hpoctl: Hpoctl, slurm: Slurm
) -> None:
    old = hpoctl.folder / "python3.6"
    old.write_text("#!/bin/sh\necho \"ImportError: cannot import name 'StrEnum'\" >&2\nexit 1\n")
    old.chmod(0o755)
    tree = {
        "study": "old",
        "objective": "hpoctl.objectives.toy",
        "search_space": {"x": {"type": "uniform", "min": 0, "max": 1}},
        "budget": {"trials": 1},
        "resources": {"python": str(old)},
    }
    (hpoctl.folder / "sweep.yaml").write_text(json.dumps(tree))
    hpoctl.env.update(slurm.env)
    python = found(hpoctl, "sweep.yaml", "--job", code=3)["python"]
    assert python["level"] == "fails"
    assert "cannot import name 'StrEnum'" in python["text"]
