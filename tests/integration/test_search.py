"""Conditions, start points and samplers that need notes, through all of hpoctl on this machine."""

from __future__ import annotations

import csv
import json
import os

import pytest

from integration.conftest import MakeSweep

SPACE = {
    "lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1, "prior": 1e-3},
    "method": {"type": "categorical", "values": ["full", "lora"]},
    "lora": {
        "when": {"method": "lora"},
        "r": {"type": "int", "min": 1, "max": 9},
    },
}


@pytest.mark.parametrize(
    ("storage", "sampler"),
    [("postgresql", "cmaes"), ("sqlite", {"name": "nsga2", "population_size": 5})],
)
def test_a_sweep_with_conditions_is_worked_off_and_reported(
    make_sweep: MakeSweep, storage: str, sampler: object
) -> None:
    sweep = make_sweep(
        storage,
        backend="local",
        mode="async",
        workers=2,
        sampler=sampler,
        search_space=SPACE,
        start=[{"method": "lora", "lora": {"r": 3}}],
        pruner={"name": "hyperband", "max_resource": 2},
        budget={"trials": 16},
    )
    assert "(2 of them begin as given)" in sweep.ask("check", "sweep.yaml")
    sweep.submit()
    sweep.await_finished(16)
    trials = sweep.trials()
    assert trials[0].params["lr"] == 1e-3
    assert trials[1].params["lora.r"] == 3
    for trial in trials:
        assert ("lora.r" in trial.params) == (trial.params["method"] == "lora")
    assert {trial.params["method"] for trial in trials} == {"full", "lora"}
    sweep.ask("trials", sweep.study)
    best = sweep.ask_json("best", sweep.study)["params"]
    assert ("lora" in best) == (best["method"] == "lora")
    sweep.ask("report", sweep.study)
    with (sweep.run_dir.path / "report" / "trials_summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["lora.r"]) for row in rows] == [row["method"] == "lora" for row in rows]


TORCH = """
import torch

def objective(trial):
    torch.set_num_threads(2)
    numbers = torch.rand(600, 600)
    (numbers @ numbers).exp().sum().item()
    return trial.params["lr"]
"""


def test_a_trial_may_use_threads_of_torch_after_gp_has_used_torch(make_sweep: MakeSweep) -> None:
    """Threads that the worker had started would be missing in the process of the trial."""
    sweep = make_sweep(
        "journal",
        backend="local",
        mode="async",
        objective="mine",
        objective_args=None,
        metrics=[{"name": "value"}],
        sampler={"name": "gp", "n_startup_trials": 2},
        search_space={"lr": SPACE["lr"]},
        budget={"trials": 5},
    )
    (sweep.hpoctl.folder / "mine.py").write_text(TORCH)
    sweep.submit()
    sweep.await_finished(5)


def test_a_word_of_a_command_is_left_out_with_its_parameter(make_sweep: MakeSweep) -> None:
    says = "import json, sys; print(json.dumps({'value': len(sys.argv)}))"
    sweep = make_sweep(
        "journal",
        backend="local",
        mode="async",
        objective=None,
        workers=3,
        metrics=[{"name": "value"}],
        objective_args=None,
        command=["python3", "-c", says, "--method={method}", "--r={lora.r}"],
        search_space={name: SPACE[name] for name in ("method", "lora")},
        sampler="grid",
        budget=None,
    )
    sweep.submit()
    sweep.await_finished(1 + 9)
    for trial in sweep.trials():
        assert trial.value == (3 if trial.params["method"] == "lora" else 2)


def test_a_sampler_without_its_package_is_refused_in_one_line(make_sweep: MakeSweep) -> None:
    sweep = make_sweep("journal", backend="local", sampler="cmaes")
    hidden = sweep.hpoctl.folder / "site"
    hidden.mkdir()
    # Python takes a module that is None for one that is not there.
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['cmaes'] = None\n")
    path = os.environ.get("PYTHONPATH", "")
    sweep.hpoctl.env["PYTHONPATH"] = f"{hidden}:{path}"
    said = sweep.hpoctl("check", "sweep.yaml", code=2, timeout_s=90).stderr
    assert "sampler: cmaes needs cmaes, which" in said
    assert "python -m pip install cmaes" in said
    assert said.count("\n") == 1
    sweep.rewrite(resources={"time": "5m", "cpus": 1, "setup": ["module load cmaes"]})
    assert json.loads(sweep.ask("check", "sweep.yaml", "--json"))["valid"]
