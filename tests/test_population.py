"""Population-based training: what a member becomes next, decided by what the study holds."""

from __future__ import annotations

from random import Random

import pytest

from hpoctl import config
from hpoctl.errors import ConfigError
from hpoctl.population import is_ready, mutated, succeed, superseded
from hpoctl.record import Parent, TrialRecord, TrialState
from hpoctl.samplers import Pbt
from hpoctl.space import Categorical, Condition, Float, Int, Params, SearchSpace
from hpoctl.sweep import Sweep

TEXT = """
study: evolving
objective: train:objective
metrics: [{{name: loss, goal: {goal}}}]
search_space:
  lr: {{type: log_uniform, min: 1e-4, max: 1e-1}}
  model: {{layers: {{type: categorical, values: [1, 2]}}}}
sampler: {{name: pbt, population: 4{more}}}
budget: {{trials: 12}}
"""


def make_sweep(more: str = "", goal: str = "minimize") -> Sweep:
    return config.parse(TEXT.format(goal=goal, more=more), "sweep.yaml")


def trial(number: int, value: float | None = None, **known: object) -> TrialRecord:
    """A complete trial with its number in its parameters; without a value a failed one."""
    fields: dict[str, object] = {
        "state": TrialState.FAILED if value is None else TrialState.COMPLETE,
        "values": None if value is None else (value,),
        "params": {"lr": 1e-3 + number / 1e6, "model.layers": 1},
        **known,
    }
    return TrialRecord(number=number, **fields)  # type: ignore[arg-type]  # of a test's own making


FOUR = [trial(0, 1.0), trial(1, 2.0), trial(2, 3.0), trial(3, 4.0)]


@pytest.mark.parametrize("number", [4, 5])
def test_the_better_half_trains_on_with_its_own_parameters(number: int) -> None:
    new = succeed(make_sweep(), number, FOUR)
    assert new.params == FOUR[number - 4].params
    assert new.parent == Parent(number - 4, number - 4)


@pytest.mark.parametrize("number", [6, 7])
def test_the_worse_half_becomes_mutated_copies_of_the_better(number: int) -> None:
    new = succeed(make_sweep(), number, FOUR)
    assert new.parent in (Parent(0, 0), Parent(1, 1))
    assert new.params != FOUR[new.parent.number].params
    assert new.params["model.layers"] == 1  # the weights are of one layer


def test_where_more_is_better_the_others_are_replaced() -> None:
    sweep = make_sweep(goal="maximize")
    parents = [succeed(sweep, number, FOUR).parent for number in (4, 5, 6, 7)]
    assert parents[2:] == [Parent(2, 2), Parent(3, 3)]
    assert set(parents[:2]) <= {Parent(2, 2), Parent(3, 3)}


def test_the_first_to_end_trains_on_whatever_it_has_come_to() -> None:
    assert succeed(make_sweep(), 7, [trial(3, 4.0)]).parent == Parent(3, 3)


def test_of_two_that_have_ended_the_worse_one_is_replaced() -> None:
    there = [trial(1, 2.0), trial(3, 4.0)]
    assert succeed(make_sweep(), 7, there).parent == Parent(1, 1)
    assert succeed(make_sweep(), 5, there).parent == Parent(1, 1)


def test_members_are_compared_by_their_latest_results() -> None:
    there = [*FOUR, trial(4, 9.0), trial(7, 0.5)]
    assert succeed(make_sweep(), 11, there).parent == Parent(7, 7)
    assert succeed(make_sweep(), 8, there).parent in (Parent(7, 7), Parent(1, 1))


def test_a_member_that_failed_is_replaced_also_where_few_are() -> None:
    there = [trial(0), trial(1, 2.0)]
    assert succeed(make_sweep(", exploit: 0.1"), 4, there).parent == Parent(1, 1)


def test_a_member_that_failed_before_anybody_else_ended_begins_anew() -> None:
    new = succeed(make_sweep(), 4, [trial(0)])
    assert new.parent is None
    assert set(new.params) == {"lr", "model.layers"}


def test_a_member_beyond_a_constraint_comes_behind_those_within() -> None:
    there = [trial(0, 1.0, constraints={"memory_gb": 2.0}), *FOUR[1:]]
    assert succeed(make_sweep(", exploit: 0.25"), 4, there).parent == Parent(1, 1)


def test_a_repeated_trial_is_a_parent_with_the_folder_of_the_first() -> None:
    there = [trial(8), trial(12, 1.0, attrs={"retry_of": 8}), trial(9, 2.0)]
    assert succeed(make_sweep(), 16, there).parent == Parent(12, 8)


def test_the_same_study_and_number_give_the_same_successor() -> None:
    assert succeed(make_sweep(), 7, FOUR) == succeed(make_sweep(), 7, FOUR)
    assert succeed(make_sweep(), 7, FOUR).params != succeed(make_sweep(), 6, FOUR).params


def test_a_trial_waits_for_the_one_before_it_of_its_member() -> None:
    assert [number for number in range(10) if is_ready(number, 4, {1, 2, 5})] == [
        *(0, 1, 2, 3, 5, 6, 9)
    ]


# Mutation

SPACE = SearchSpace(
    {
        "lr": Float(low=1e-4, high=1e-1, log=True),
        "drop": Float(low=0.0, high=0.5, step=0.1),
        "batch": Int(low=1, high=64),
        "size": Categorical(choices=(12, 16)),
        "heads": Categorical(choices=(3, 4)),
        "lora.r": Int(low=1, high=8),
    },
    when={"lora.r": (Condition(name="size", values=(16,)),)},
    divides={"heads": "size"},
)
POINT: Params = {"lr": 0.09, "drop": 0.4, "batch": 2, "size": 12, "heads": 3}


def mutations(point: Params = POINT, **options: object) -> list[Params]:
    sampler = Pbt.model_validate({"inherit": "nothing", **options})
    return [mutated(point, SPACE, sampler, Random(seed)) for seed in range(200)]


def test_a_mutation_stays_in_the_space_and_changes_something() -> None:
    for new in mutations():
        assert new != POINT
        assert SPACE.whole(new) == new
        assert all(value in SPACE.parameters[name] for name, value in new.items())
        assert SPACE.fits("heads", new["heads"], new)
    assert any("lora.r" in new for new in mutations())


def test_without_drawing_anew_numbers_change_by_a_fifth_at_most() -> None:
    new = mutations(resample=0.0)
    assert all(0.09 * 0.8 <= float(str(one["lr"])) <= 0.1 for one in new)
    assert len({one["lr"] for one in new}) > 50
    assert {one["batch"] for one in new} == {1, 3}  # a whole number moves by one at least
    assert {one["size"] for one in new} == {12}


def test_only_what_may_be_mutated_is() -> None:
    new = mutations(mutate=["lr", "lora"])
    assert all({**one, "lr": POINT["lr"]} == POINT for one in new)


@pytest.mark.parametrize("choices", [(1, 2), (1,)])
def test_words_alone_are_drawn_anew_and_a_space_of_one_point_is_no_trap(
    choices: tuple[int, ...],
) -> None:
    space = SearchSpace({"a": Categorical(choices=choices)})
    new = mutated({"a": 1}, space, Pbt(inherit="nothing"), Random(0))
    assert new == {"a": choices[-1]}


# What is kept


def running(number: int, **known: object) -> TrialRecord:
    return trial(number, None, state=TrialState.RUNNING, **known)


def test_what_a_member_has_gone_on_from_is_needed_no_more() -> None:
    assert superseded([*FOUR, trial(4, 1.0), running(5, attrs={"parent": 1})], 4) == [0]


def test_a_parent_is_needed_until_its_child_has_ended() -> None:
    there = [*FOUR, trial(4, 1.0), trial(5, 1.0)]
    assert superseded([*there, running(6, attrs={"parent": 0})], 4) == [1]
    waiting = trial(6, state=TrialState.WAITING, attrs={"parent": 0})
    assert superseded([*there, waiting], 4) == [1]
    assert superseded([*there, trial(6, 1.0, attrs={"parent": 0})], 4) == [0, 1, 2]


def test_nothing_is_given_up_while_a_claim_is_choosing() -> None:
    assert superseded([*FOUR, trial(4, 1.0), running(5, params={})], 4) == []


def test_a_failed_trial_keeps_what_it_has_for_a_repetition() -> None:
    assert superseded([trial(0), *FOUR[1:], trial(4, 1.0)], 4) == []


# What makes no sense


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sampler={name: pbt, population: 1}", "sampler.population"),
        ("sampler={name: pbt, exploit: 0.7}", "sampler.exploit"),
        (
            "sampler={name: pbt, mutate: [rl]}",
            "rl is not in the search space; known: lr, model.layers",
        ),
        ("sampler={name: pbt, mutate: []}", "finds nothing to mutate"),
        ("sampler={name: pbt, inherit: all}", "sampler.inherit"),
        ("pruner=median", "leave 'pruner' out"),
        ("workers=5", "5 are more than the 4 members of sampler.population"),
        ("budget.trials=4", "more than 4 for pbt"),
        ("budget={}", "'trials' is missing"),
        ("metrics=[{name: a}, {name: b}]", "pbt compares one metric"),
        ("start=[{lr: 0.1}, {lr: 0.2}, {lr: 0.3}, {lr: 0.4}, {lr: 0.5}]", "start"),
    ],
)
def test_what_a_population_cannot_be_is_refused_in_one_line(change: str, said: str) -> None:
    text = TEXT.format(goal="minimize", more="").replace("max: 1e-1", "max: 1")
    with pytest.raises(ConfigError) as refused:
        config.parse(text, "sweep.yaml", [change])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_it_is_a_sampler_by_its_name_alone_and_runs_async() -> None:
    from hpoctl import modes
    from hpoctl.words import Mode

    text = TEXT.format(goal="minimize", more="").replace("{name: pbt, population: 4}", "pbt")
    sweep = config.parse(text, "sweep.yaml")
    assert sweep.sampler == Pbt(population=4)
    assert modes.choose(sweep) is Mode.ASYNC
