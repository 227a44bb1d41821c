"""The chaos run on Slurm, short: one seed, every kind of fault, and nothing left behind."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import require_slurm, wait_for

from chaos import slurm_faults
from chaos.slurm import opened
from chaos.slurm_run import Plan, run

SCRIPT = Path(__file__).with_name("slurm.py")
PLAN = Plan(
    seed=3, trials=40, faults=15, workers=5, nodes=4, seconds=(2.0, 6.0), pace_s=1.0, deadline_s=200
)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """One run for all tests."""
    require_slurm()
    with opened(PLAN.nodes) as stage:
        return run(stage, PLAN)


def test_a_seed_is_a_schedule() -> None:
    first, again, other = (
        list(itertools.islice(slurm_faults.schedule(seed, 2.0), 60)) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert {planned.kind for planned in first[: len(slurm_faults.FAULTS)]} == set(
        slurm_faults.FAULTS
    )


def test_every_trial_finishes_once_whatever_breaks(result: dict[str, Any]) -> None:
    assert result["violations"] == []
    assert (result["finished"], result["distinct"]) == (PLAN.trials, PLAN.trials)
    assert (result["lost"], result["doubled"]) == (0, 0)
    assert result["ledger_error"] <= 0.01


def test_the_timeline_names_every_fault(result: dict[str, Any]) -> None:
    timeline = result["timeline"]
    done = [event["kind"] for event in timeline if event["seen"] != "no effect"]
    assert len(done) == result["faults"]["all"] >= PLAN.faults
    assert all(event["victim"] for event in timeline)
    assert len(set(done)) >= 8


def marked(mark: str) -> list[str]:
    """The processes that have this mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("number", "moment"),
    [(signal.SIGINT, "slurmctld"), (signal.SIGTERM, "hpoctl worker")],
)
def test_an_interrupted_run_leaves_no_process_behind(number: signal.Signals, moment: str) -> None:
    require_slurm()
    mark = f"CHAOS_MARK={secrets.token_hex(8)}"
    name, _, value = mark.partition("=")
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--seed", "1", "--json"],
        env={**os.environ, name: value},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_for(lambda: any(moment in line for line in marked(mark)), 60, moment)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert out == ""
    assert f"interrupted {number.name}" in err or number is signal.SIGINT
    assert marked(mark) == []


def test_the_script_refuses_a_run_without_a_seed() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--json"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--seed" in done.stderr
    assert json.dumps(done.stdout) == '""'
