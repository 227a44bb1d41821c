"""A population of language models on Slurm: each trial goes on from another one's weights."""

from __future__ import annotations

import csv

import pytest
from optuna.trial import TrialState

from integration.conftest import MakeSweep

pytest.importorskip("torch")
pytest.importorskip("transformers")

MEMBERS, GENERATIONS = 3, 3


def test_the_loss_falls_over_the_generations(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=3,
        objective="hpoctl.objectives.causal_lm",
        objective_args={
            "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 300, "max_blocks": 400},
            "model": {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "ff_dim": 64},
            "training": {"max_steps": 20, "eval_steps": 10, "eval_on_start": True},
        },
        search_space={
            "training": {
                "learning_rate": {"type": "log_uniform", "min": 3e-4, "max": 1e-2},
                "batch_size": {"type": "categorical", "values": [4, 8]},
            },
            "model": {"dropout": {"type": "uniform", "min": 0.0, "max": 0.3}},
        },
        sampler={"name": "pbt", "population": MEMBERS, "mutate": ["training", "model.dropout"]},
        metrics=[{"name": "eval_loss"}],
        budget={"trials": MEMBERS * GENERATIONS},
    )
    sweep.submit()
    sweep.await_finished(MEMBERS * GENERATIONS, deadline_s=280)
    trials, attrs = sweep.trials(), sweep.attrs()
    logs = [(sweep.run_dir.trial(trial.number) / "log.txt").read_text()[-500:] for trial in trials]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * len(trials), logs
    steps = {trial.number: sorted(trial.intermediate_values.items()) for trial in trials}
    assert all("parent" not in known for known in attrs[:MEMBERS])
    for trial in trials[MEMBERS:]:
        parent = attrs[trial.number]["parent"]
        (begun, loss), (before, ended) = steps[trial.number][0], steps[parent][-1]
        assert begun == before
        assert loss == pytest.approx(ended, abs=1e-4)
        assert steps[trial.number][-1][0] == begun + 20
    best = [
        min(trial.value or 99 for trial in trials[i : i + MEMBERS])
        for i in range(0, len(trials), MEMBERS)
    ]
    assert best[0] > best[1] > best[2]
    kept = {path.parent.name for path in sweep.run_dir.trials.glob("*/checkpoint-*")}
    assert kept == {"00006", "00007", "00008"}
    sweep.ask("report", sweep.study)
    with (sweep.run_dir.report / "trials_summary.csv").open() as table:
        parents = [row["parent"] for row in csv.DictReader(table)]
    assert parents[:MEMBERS] == [""] * MEMBERS
    assert parents[MEMBERS:] == [str(known["parent"]) for known in attrs[MEMBERS:]]
    assert " parent " in sweep.ask("trials", sweep.study)
