"""Language models on Slurm: two that train at the same moment, and one whose task is cut short."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from optuna.trial import TrialState
from servers import wait_for

from integration.conftest import MakeSweep, write

pytest.importorskip("torch")
pytest.importorskip("transformers")


SIDE_BY_SIDE = """
import pathlib, time
from hpoctl.objectives import causal_lm

prepare = causal_lm.prepare
MET = pathlib.Path(__file__).with_name("met")


class Meeting:
    def __init__(self, trial):
        self.trial = trial

    def __getattr__(self, name):
        return getattr(self.trial, name)

    def report(self, value, step, **extra):
        self.trial.report(value, step, **extra)
        (MET / str(self.trial.number)).touch()
        while len(list(MET.iterdir())) < 2:
            time.sleep(0.05)


def objective(trial):
    return causal_lm.objective(Meeting(trial))
"""


def test_two_tasks_learn_side_by_side_from_one_text(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="batch",
        trials_per_task=1,
        objective="side_by_side",
        objective_args={
            "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 300, "max_blocks": 400},
            "model": {"num_layers": 1, "num_heads": 2, "ff_dim": 64, "dropout": 0.0},
            "training": {"max_steps": 60, "eval_steps": 15, "batch_size": 8},
        },
        search_space={
            "model": {"hidden_size": {"type": "categorical", "values": [32, 64]}},
            "training": {"learning_rate": {"type": "categorical", "values": [5e-3]}},
        },
        sampler="grid",
        metrics=[{"name": "eval_loss"}],
        budget=None,
    )
    (sweep.hpoctl.folder / "side_by_side.py").write_text(SIDE_BY_SIDE)
    (sweep.hpoctl.folder / "met").mkdir()
    ids = sweep.submit()
    sweep.await_finished(2, deadline_s=240)  # each waits for the other
    trials = sweep.trials()
    logs = [(sweep.run_dir.trial(n) / "log.txt").read_text() for n in (0, 1)]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2, logs
    for trial in trials:
        losses = [loss for _, loss in sorted(trial.intermediate_values.items())]
        assert sorted(trial.intermediate_values) == [15, 30, 45, 60]
        assert losses[0] > losses[-1] + 0.1
        assert trial.value == losses[-1]
        assert trial.user_attrs["parameters"] > 10_000
    sweep.await_tasks(ids, 2)
    assert len({attrs["task"] for attrs in sweep.attrs()}) == 2
    kept = (sweep.hpoctl.folder / "runs" / ".tokens").iterdir()
    assert sum(path.is_dir() for path in kept) == 1  # what one of them has made


LONG: dict[str, Any] = {
    "objective": "hpoctl.objectives.causal_lm",
    "objective_args": {
        "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 300, "max_blocks": 400},
        "model": {"num_layers": 2, "num_heads": 2, "hidden_size": 64, "ff_dim": 128},
        "training": {"max_steps": 240, "eval_steps": 8, "batch_size": 16, "schedule": "cosine"},
    },
    "search_space": {"training": {"learning_rate": {"type": "categorical", "values": [5e-3]}}},
    "sampler": "grid",
    "metrics": [{"name": "eval_loss"}],
}


def test_a_trial_whose_task_was_queued_again_comes_out_as_if_it_had_not_been(
    make_sweep: MakeSweep,
) -> None:
    sweep = make_sweep("postgresql", mode="sequential", budget=None, **LONG)
    (id_,) = sweep.submit()
    slurm = sweep.slurm
    assert slurm is not None
    metrics = sweep.run_dir.trial(0) / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 3, 120, "reports")
    slurm.ask("scontrol", "requeue", f"{id_}_0")
    wait_for(lambda: "BeginTime" in slurm.ask("squeue", "-h", "-o", "%r"), 60, "requeued")
    slurm.ask("scontrol", "update", f"JobId={id_}_0", "StartTime=now")
    sweep.await_finished(1, deadline_s=240)
    (cut,) = sweep.trials()
    assert [worker.told for worker in sweep.summary().workers] == ["SIGTERM", None]

    here = sweep.hpoctl.folder / "here"
    here.mkdir()
    write(here / "sweep.yaml", {"study": "whole", "backend": "local", **LONG})
    command = [sys.executable, "-m", "hpoctl", "run", "sweep.yaml", "--json"]
    done = subprocess.run(
        command, cwd=here, env=sweep.hpoctl.environ, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["best"]["values"] == cut.values
