from __future__ import annotations

import math
from dataclasses import replace
from io import StringIO
from typing import Literal

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hpoctl import config
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.ranking import best, best_config, compromises, front, ranked
from hpoctl.samplers import Manual
from hpoctl.space import Value, nest
from hpoctl.sweep import Metric

LOSS = Metric(name="eval_loss")
ACCURACY = Metric(name="accuracy", goal="maximize")


def complete(number: int, *values: float, **params: Value) -> TrialRecord:
    return TrialRecord(number=number, state=TrialState.COMPLETE, values=values, params=params)


def number_of_best(records: list[TrialRecord], metric: Metric) -> int | None:
    winner = best(records, [metric])
    return None if winner is None else winner.number


def test_best_respects_the_goal() -> None:
    records = [complete(0, 3.0), complete(1, 1.0), complete(2, 2.0)]
    assert number_of_best(records, LOSS) == 1
    assert number_of_best(records, ACCURACY) == 0


def infeasible(number: int, *values: float) -> TrialRecord:
    return replace(complete(number, *values), constraints={"memory_gb": 0.5, "time": -1.0})


def numbers_on_front(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in front(records, [LOSS, ACCURACY])]


def test_an_infeasible_trial_is_never_best_and_on_no_front() -> None:
    assert number_of_best([infeasible(0, 1.0), complete(1, 2.0)], LOSS) == 1
    assert number_of_best([infeasible(0, 1.0)], LOSS) is None
    assert numbers_on_front([infeasible(0, 1.0, 0.9), complete(1, 2.0, 0.5)]) == [1]


def test_the_front_has_every_trial_that_no_other_one_beats() -> None:
    records = [
        complete(0, 2.0, 0.9),
        complete(1, 1.0, 0.5),
        complete(2, 2.5, 0.9),  # beaten by 0
        complete(3, 1.5, 0.8),
        complete(4, 1.5, 0.8),  # as good as 3
        complete(5, math.nan, 1.0),
        complete(6, 3.0, math.inf),
        TrialRecord(number=7, state=TrialState.PRUNED, values=(0.0, 1.0)),
    ]
    assert numbers_on_front(records) == [0, 1, 3, 4, 6]
    assert numbers_on_front([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 2), max_size=30))
def test_the_front_is_optunas(pairs: list[tuple[float, float]]) -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    for pair in pairs:
        study.add_trial(optuna.trial.create_trial(values=pair))
    records = [complete(number, *pair) for number, pair in enumerate(pairs)]
    assert numbers_on_front(records) == [trial.number for trial in study.best_trials]


def test_of_a_front_the_trial_nearest_to_all_goals_is_the_one_to_take() -> None:
    records = [complete(0, 1.0, 0.0), complete(1, 1.2, 0.8), complete(2, 3.0, 1.0)]
    winner = best(records, [LOSS, ACCURACY])
    assert winner is not None
    assert winner.number == 1


def test_of_a_front_with_an_infinite_value_a_finite_trial_is_taken() -> None:
    winner = best([complete(0, -math.inf, 0.0), complete(1, 1.0, 0.5)], [LOSS, ACCURACY])
    assert winner is not None
    assert winner.number == 1


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_nan_never_wins(goal: Literal["minimize", "maximize"]) -> None:
    metric = Metric(name="m", goal=goal)
    assert number_of_best([complete(0, math.nan), complete(1, 5.0)], metric) == 1
    assert number_of_best([complete(1, 5.0), complete(2, math.nan)], metric) == 1
    assert number_of_best([complete(0, math.nan)], metric) is None


def test_a_tie_goes_to_the_lowest_number_whatever_the_order() -> None:
    assert number_of_best([complete(5, 1.0), complete(2, 1.0), complete(9, 1.0)], LOSS) == 2
    assert number_of_best([complete(5, 0.0), complete(2, -0.0)], ACCURACY) == 2


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETE])
def test_only_a_complete_trial_can_be_best(state: TrialState) -> None:
    other = TrialRecord(number=0, state=state, values=(0.0,))
    assert number_of_best([other], LOSS) is None
    assert number_of_best([other, complete(1, 9.0)], LOSS) == 1


def test_no_trials_have_no_best() -> None:
    assert best([], [LOSS]) is None


@given(st.lists(st.floats(), max_size=20))
def test_no_complete_trial_beats_the_best(values: list[float]) -> None:
    records = [complete(number, value) for number, value in enumerate(values)]
    winner = best(records, [LOSS])
    numbers = [value for value in values if not math.isnan(value)]
    if winner is None:
        assert not numbers
    else:
        assert winner.values == (min(numbers),)
        assert values.index(min(numbers)) == winner.number


def test_the_header_says_which_trial_and_what_it_reached() -> None:
    text = best_config(complete(7, 3.21, 0.5, r=8), [LOSS, ACCURACY])
    assert text == "# trial 7: eval_loss 3.21, accuracy 0.5\nr: 8\n"


def test_parameters_are_nested_as_in_the_sweep_file() -> None:
    params: dict[str, Value] = {"training.lr": 1e-06, "training.batch": 4, "lora.r": 8}
    record = TrialRecord(number=0, state=TrialState.COMPLETE, values=(1.0,), params=params)
    lines = best_config(record, [LOSS]).splitlines()[1:]
    assert lines == ["training:", "  lr: 1e-06", "  batch: 4", "lora:", "  r: 8"]


def test_the_best_configuration_can_be_fed_back_as_a_point_of_a_sweep() -> None:
    params: dict[str, Value] = {"training.lr": 3.3e-05, "lora.r": 8, "schedule": None}
    record = TrialRecord(number=0, state=TrialState.COMPLETE, values=(1.0,), params=params)
    point = best_config(record, [LOSS]).replace("\n", "\n      ")
    sweep = config.parse(
        "study: again\n"
        "objective: hpoctl.objectives.toy\n"
        "search_space:\n"
        "  training: {lr: {type: log_uniform, min: 1e-6, max: 1e-4}}\n"
        "  lora: {r: {type: categorical, values: [8, 16]}}\n"
        "  schedule: {type: categorical, values: [null, cosine]}\n"
        "sampler:\n  name: manual\n  points:\n    -\n      " + point,
        "again.yaml",
    )
    assert isinstance(sweep.sampler, Manual)
    assert sweep.sampler.points == (params,)


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,8}", fullmatch=True)
strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x85"), max_size=6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | strings


def same(left: object, right: object) -> bool:
    """Equal with the types: 1 is neither True nor 1.0, and 0.0 is not -0.0."""
    if isinstance(left, dict) and isinstance(right, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and repr(left) == repr(right)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(names, st.dictionaries(names, scalars, min_size=1), max_size=4))
def test_every_parameter_value_comes_back_from_the_file_exactly(
    groups: dict[str, dict[str, Value]],
) -> None:
    params = {f"{g}.{n}": v for g, group in groups.items() for n, v in group.items()}
    record = TrialRecord(number=0, state=TrialState.COMPLETE, values=(1.0,), params=params)
    written = best_config(record, [LOSS]).encode().decode()
    assert same(YAML(typ="safe", pure=True).load(StringIO(written)), nest(params))


def test_compromises_are_the_front_the_best_one_first_and_the_infinite_last() -> None:
    records = [
        complete(0, 1.0, 0.0),
        complete(1, 2.0, 0.9),
        complete(2, 5.0, 1.0),
        complete(3, 3.0, 0.5),  # beaten by 1
        complete(4, math.inf, 2.0),
    ]
    assert [record.number for record in compromises(records, [LOSS, ACCURACY])] == [1, 0, 2, 4]
    by_accuracy = ranked(front(records, [LOSS, ACCURACY]), [LOSS, ACCURACY], 1)
    assert [record.number for record in by_accuracy] == [4, 2, 1, 0]
