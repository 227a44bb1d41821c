"""The verbs of the login node, above all what is left when one of them is killed half-way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from killing import HARNESS
from servers import wait_for

SWEEP = """
study: crash
objective: hpoctl.objectives.toy
search_space:
  x: {type: uniform, min: 0, max: 1}
sampler: random
mode: batch
trials_per_task: 3
workers: 2
budget: {trials: 6}
backend: local
"""


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True, timeout=60)


def hpoctl(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "hpoctl", *argv)


def drained(folder: Path) -> dict[str, int]:
    """The counts once no worker is left."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = hpoctl(folder, "status", "runs/crash", "--json")
        assert done.returncode == 0, done.stderr
        status = json.loads(done.stdout)
        if all(
            worker["slurm_state"] in ("COMPLETED", "FAILED", "GONE") for worker in status["workers"]
        ):
            counts: dict[str, int] = status["counts"]
            return counts
    raise TimeoutError("workers did not leave")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP)
    return folder


@pytest.mark.parametrize(
    "point",
    [
        ("hpoctl.study.relational", "RelationalStore.fill", "before", "1"),
        ("hpoctl.study.relational", "RelationalStore.fill", "after", "1"),
        ("optuna.storages", "JournalStorage.create_new_trial", "before", "1"),
        ("optuna.storages", "JournalStorage.create_new_trial", "after", "4"),
        ("hpoctl.rundir", "RunDir.create", "before", "1"),
        ("hpoctl.rundir", "RunDir.create", "after", "1"),
        ("hpoctl.rundir", "RunDir.append", "before", "1"),
        ("hpoctl.rundir", "RunDir.append", "after", "1"),
        ("hpoctl.rundir", "remember", "before", "1"),
    ],
    ids=lambda point: " ".join(point[1:3]),
)
def test_a_killed_submit_goes_on_when_it_is_called_again(
    folder: Path, point: tuple[str, ...]
) -> None:
    flags = ["--set", "storage={sqlite: study.db}"] if "Relational" in point[1] else []
    killed = run(folder, "-c", HARNESS, *point, "submit", "sweep.yaml", *flags)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = hpoctl(folder, "submit", "sweep.yaml", *flags)
    if point[1:3] in (("RunDir.append", "after"), ("remember", "before")):
        assert again.returncode == 4  # every array had been accepted and written down
    else:
        assert again.returncode == 0, again.stderr
    counts = drained(folder)
    assert counts["complete"] == sum(counts.values()) == 6
    assert len((folder / "runs/crash/submissions.jsonl").read_text().splitlines()) == 1


def test_a_submit_killed_between_two_arrays_submits_the_second_only(folder: Path) -> None:
    sweep = SWEEP.replace("random", "tpe").replace("workers: 2", "workers: 1")
    (folder / "sweep.yaml").write_text(sweep)
    point = ("hpoctl.backends.local", "submit", "before", "2")
    assert run(folder, "-c", HARNESS, *point, "submit", "sweep.yaml").returncode == -signal.SIGKILL
    ledger = folder / "runs/crash/submissions.jsonl"
    first = ledger.read_text()
    again = hpoctl(folder, "submit", "sweep.yaml")
    assert again.returncode == 0, again.stderr
    assert ledger.read_text().startswith(first)
    assert [json.loads(line)["array"] for line in ledger.read_text().splitlines()] == [
        "round-1",
        "round-2",
    ]
    assert drained(folder)["complete"] == 6


def test_a_sweep_that_slurm_refuses_leaves_nothing_behind(folder: Path) -> None:
    fake = folder / "bin" / "sbatch"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'sbatch: error: Invalid account' >&2; exit 1\n")
    fake.chmod(0o755)
    os.environ["PATH"], path = f"{fake.parent}:{os.environ['PATH']}", os.environ["PATH"]
    try:
        flags = ["--set", "storage.sqlite=study.db", "--set", "workers=1"]
        refused = hpoctl(folder, "submit", "sweep.yaml", "--backend", "slurm", *flags)
    finally:
        os.environ["PATH"] = path
    assert refused.returncode == 3
    assert "sbatch --parsable" in refused.stderr
    assert refused.stderr.rstrip().endswith("Invalid account")
    assert not (folder / "runs" / "crash").exists()
    assert optuna.get_all_study_names(f"sqlite:///{folder}/study.db") == []
    assert hpoctl(folder, "submit", "sweep.yaml").returncode == 0
    assert drained(folder)["complete"] == 6


def test_a_second_submit_is_refused_with_the_way_out(folder: Path) -> None:
    assert hpoctl(folder, "submit", "sweep.yaml").returncode == 0
    drained(folder)
    again = hpoctl(folder, "submit", "sweep.yaml")
    assert again.returncode == 4
    assert "hpoctl workers add crash" in again.stderr


def test_trials_of_killed_workers_are_run_by_attached_ones(folder: Path) -> None:
    slow = SWEEP.replace("toy\n", "toy\nobjective_args: {seconds: 1.5}\n")
    (folder / "sweep.yaml").write_text(slow)
    storage = ["--set", "storage={sqlite: study.db}"]
    submitted = hpoctl(folder, "submit", "sweep.yaml", "--json", *storage)
    array = int(json.loads(submitted.stdout)["arrays"][0]["id"])
    while True:
        workers = json.loads(hpoctl(folder, "status", "crash", "--json").stdout)["workers"]
        if sum(worker["trial"] is not None for worker in workers) == 2:
            break
    study = optuna.load_study(study_name="crash", storage=f"sqlite:///{folder}/study.db")
    before = {t.number: t.params for t in study.trials if t.state.name == "RUNNING"}
    os.kill(array, signal.SIGKILL)
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ")
        except OSError:
            continue
        if str(folder).encode() in command:  # the workers, their shells, and what started those
            os.kill(int(entry.parent.name), signal.SIGKILL)
    attached = hpoctl(folder, "workers", "add", "crash", "-n", "2")
    assert attached.returncode == 0, attached.stderr
    counts = drained(folder)
    assert counts["complete"] == sum(counts.values()) == 6
    after = {t.number: t.params for t in study.trials if t.number in before}
    assert before == after
    listed = json.loads(hpoctl(folder, "trials", "crash", "--json").stdout)
    assert {t["attrs"].get("lost") for t in listed if t["number"] in before} == {1}


def test_attaching_to_a_finished_study_does_nothing(folder: Path) -> None:
    assert hpoctl(folder, "submit", "sweep.yaml").returncode == 0
    drained(folder)
    more = hpoctl(folder, "workers", "add", "crash", "-n", "8")
    assert more.returncode == 0
    assert "nothing to do" in more.stderr
    assert drained(folder)["complete"] == 6


def test_a_cancelled_trial_runs_again_and_a_cancel_never_counts_against_it(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        SWEEP.replace("toy\n", "toy\nobjective_args: {seconds: 40}\n")
    )
    assert hpoctl(folder, "submit", "sweep.yaml", "--set", "storage.sqlite=s.db").returncode == 0
    study = optuna.load_study(study_name="crash", storage=f"sqlite:///{folder}/s.db")
    for _ in range(2):
        wait_for(lambda: sum(trial.state.name == "RUNNING" for trial in study.trials) == 2, 30)
        assert hpoctl(folder, "cancel", "crash").returncode == 0
        drained(folder)
        assert hpoctl(folder, "workers", "add", "crash", "-n", "2").returncode == 0
    assert hpoctl(folder, "cancel", "crash").returncode == 0
    assert len(study.trials) == 6
    assert not any(trial.state.name == "FAIL" for trial in study.trials)
    listed = json.loads(hpoctl(folder, "trials", "crash", "--json").stdout)
    assert not any(trial["attrs"].get("lost") for trial in listed)
    drained(folder)


def test_a_worker_that_cannot_prepare_leaves_the_queue_alone_and_says_why(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(SWEEP.replace("hpoctl.objectives.toy", "nowhere:objective"))
    checked = hpoctl(folder, "check", "sweep.yaml")
    assert "no module 'nowhere'" in checked.stderr
    ran = hpoctl(folder, "run", "sweep.yaml")
    assert ran.returncode == 4
    assert "no module 'nowhere'" in ran.stderr.splitlines()[-1]
    shown = json.loads(hpoctl(folder, "status", "crash", "--json").stdout)
    assert shown["counts"]["waiting"] == 6
    assert {worker["slurm_state"] for worker in shown["workers"]} == {"FAILED"}
