"""A sweep made of another one is a valid sweep file, and keeps what is not of the search."""

from __future__ import annotations

import pytest

from hpoctl import config, derive
from hpoctl.errors import ConfigError
from hpoctl.plan import queue, seed_of
from hpoctl.pruners import NoPruner
from hpoctl.samplers import Manual
from hpoctl.sweep import Sweep
from hpoctl.words import Mode, OriginKind

FILE = """
study: letters
objective: hpoctl.objectives.causal_lm
objective_args:
  dataset: {builtin: pydoc, test_share: 0.1}
  training: {max_steps: 2000, rungs: [100, 500]}
metrics: [{name: eval_loss}]
search_space:
  model: {num_layers: {type: int, min: 1, max: 6}}
  training: {learning_rate: {type: log_uniform, min: 1e-5, max: 1e-2}}
sampler: tpe
pruner: asha
mode: async
workers: 4
budget: {trials: 20, gpu_hours: 3, time: 2h}
resources: {gpus: A100:1, time: 2h, setup: ["module load Python"]}
estimate: {trial: 10m}
storage: {url_env: HPOCTL_STORAGE}
seed: 7
"""
POINTS = [
    {"model.num_layers": 3, "training.learning_rate": 1.0000000000000002e-3},
    {"model.num_layers": 5, "training.learning_rate": 1e-4},
]
TREE = config.read(FILE, "letters.yaml")
ORIGIN = derive.origin(
    OriginKind.CONFIRM, "letters", run_dir="/runs/letters", trials=[8, 3], values=[1.5, 1.25]
)


def confirmed(**changes: object) -> Sweep:
    tree = derive.confirm({**TREE, **changes}, POINTS, ORIGIN, study="letters-confirm", repeats=5)
    return config.parse(derive.text(tree, "letters"), "derived")


def test_each_winner_runs_to_its_end_with_the_same_new_seeds() -> None:
    sweep = confirmed()
    assert isinstance(sweep.sampler, Manual)
    assert isinstance(sweep.pruner, NoPruner)
    assert sweep.trials == 10
    assert [dict(point) for point in queue(sweep)] == POINTS * 5
    seeds = [seed_of(sweep, number) for number in range(10)]
    assert [seeds[i] for i in range(0, 10, 2)] == [seeds[i] for i in range(1, 10, 2)]
    assert len(set(seeds)) == 5
    search = config.parse(FILE, "letters.yaml")
    assert not set(seeds) & {seed_of(search, number) for number in range(20)}


def test_a_confirmation_is_one_array_of_a_task_each() -> None:
    sweep = confirmed()
    assert (sweep.mode, sweep.trials_per_task, sweep.workers) == (Mode.BATCH, 1, 4)
    assert sweep.budget.gpu_hours is None
    here = confirmed(backend="local", workers=None)
    assert (here.mode, here.workers) == (Mode.ASYNC, 1)


def test_what_is_not_of_the_search_stays() -> None:
    sweep, search = confirmed(), config.parse(FILE, "letters.yaml")
    for key in ("objective", "objective_args", "metrics", "search_space", "resources", "storage"):
        assert getattr(sweep, key) == getattr(search, key), key
    assert sweep.origin is not None
    assert (sweep.origin.kind, sweep.origin.trials) == (OriginKind.CONFIRM, (8, 3))
    assert sweep.origin.values == (1.5, 1.25)


def test_overrides_hold_for_the_sweep_that_is_made() -> None:
    tree = derive.confirm(TREE, POINTS, ORIGIN, study="again", repeats=2)
    text = derive.text(tree, "again", ["resources.time=8h", "workers=2"])
    sweep = config.parse(text, "derived")
    assert (sweep.resources.time.total_seconds(), sweep.workers) == (8 * 3600, 2)
    with pytest.raises(ConfigError, match=r"again:\d+: workers"):
        derive.text(tree, "again", ["workers=none"])


def test_the_final_model_of_causal_lm_trains_on_all_and_is_tested() -> None:
    tree = derive.final(TREE, POINTS[:1], ORIGIN, study="letters-final")
    sweep = config.parse(derive.text(tree, "final"), "derived")
    args = sweep.objective_args
    test = {"builtin": "pydoc", "test_share": 0.1, "train_on": "all", "evaluate_on": "test"}
    assert args == {"dataset": test, "training": args["training"], "save": True}


def test_a_search_without_a_test_split_is_refused_with_the_way_out() -> None:
    dataset = {"builtin": "pydoc"}
    tree = {**TREE, "objective_args": {"dataset": dataset}}
    with pytest.raises(ConfigError, match=r"neither 'test' nor .*evaluate_on=validation"):
        derive.final(tree, POINTS[:1], ORIGIN, study="letters-final")
    told = {**dataset, "evaluate_on": "validation"}
    tree = {**TREE, "objective_args": {"dataset": told}}
    args = derive.final(tree, POINTS[:1], ORIGIN, study="letters-final")["objective_args"]
    assert args == {"dataset": told, "save": True}


def test_any_other_objective_is_told_that_it_is_final() -> None:
    tree = {**TREE, "objective": "train:objective", "objective_args": {"epochs": 3}}
    args = derive.final(tree, POINTS[:1], ORIGIN, study="final")["objective_args"]
    assert args == {"epochs": 3, "final": True}


def short(tree: derive.Tree, *, limit_gb: float | None = None) -> Sweep:
    made = derive.short(tree, POINTS, ORIGIN, study="fit", steps=3, limit_gb=limit_gb)
    return config.parse(derive.text(made, "fit"), "derived")


def test_a_few_steps_are_measured_one_point_after_the_other_in_a_journal() -> None:
    sweep = short(TREE)
    assert sweep.objective == derive.MEASURED
    assert sweep.mode is Mode.SEQUENTIAL
    assert sweep.storage.model_dump(exclude_none=True) == {}
    assert sweep.objective_args["of"]["objective"] == derive.CAUSAL_LM
    training = sweep.objective_args["of"]["args"]["training"]
    assert training == {"max_steps": 3, "eval_strategy": "no"}
    assert "limit_gb" not in sweep.objective_args
    assert sweep.objective_args["on_gpu"] is True
    assert [dict(point) for point in queue(sweep)] == POINTS


@pytest.mark.parametrize("name", ["steps", "max_steps", "rungs", "load_best_model_at_end"])
def test_a_few_steps_win_over_what_a_whole_run_would_do(name: str) -> None:
    args = {**TREE["objective_args"], "training": {name: 500, "learning_rate": 0.1}}  # type: ignore[dict-item]  # a mapping
    training = short({**TREE, "objective_args": args}).objective_args["of"]["args"]["training"]
    assert training == {"learning_rate": 0.1, "max_steps": 3, "eval_strategy": "no"}


def test_a_rising_batch_may_leave_the_range_or_be_new() -> None:
    points = [{**POINTS[0], "training.batch_size": batch} for batch in (1, 2, 4)]
    rising = "training.batch_size"
    made = derive.short(TREE, points, ORIGIN, study="fit", steps=3, limit_gb=None, rising=rising)
    sweep = config.parse(derive.text(made, "fit"), "derived")
    assert [point["training.batch_size"] for point in queue(sweep)] == [1, 2, 4]
    assert sweep.objective_args["rising"] is True


def test_a_command_is_measured_as_it_is() -> None:
    tree = {key: value for key, value in TREE.items() if key not in ("objective", "objective_args")}
    tree |= {"command": ["python", "train.py", "--lr", "{training.learning_rate}"]}
    sweep = short(tree, limit_gb=2.5)
    assert sweep.command is None
    assert sweep.objective_args["of"]["command"] == tree["command"]
    assert sweep.objective_args["of"]["args"] == {"max_steps": 3}
    assert sweep.objective_args["limit_gb"] == 2.5


def test_an_ensemble_reads_the_folders_of_its_members() -> None:
    tree = derive.ensemble(TREE, ["/a/model", "/b/model"], POINTS, ORIGIN, study="both")
    sweep = config.parse(derive.text(tree, "both"), "derived")
    assert sweep.objective_args["models"] == ["/a/model", "/b/model"]
    assert sweep.objective_args["dataset"]["evaluate_on"] == "test"
    assert sweep.trials == 1


def test_an_ensemble_reads_rows_that_each_of_its_members_can_read() -> None:
    points = [
        {"dataset.max_length": length, "dataset.packing": length > 100} for length in (256, 64)
    ]
    tree = derive.ensemble(TREE, ["/a/model", "/b/model"], points, ORIGIN, study="both")
    args = config.parse(derive.text(tree, "both"), "derived").objective_args
    assert args["searched"] == {"max_length": 64, "packing": True}
