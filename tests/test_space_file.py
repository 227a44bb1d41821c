"""Conditions, divisors, priors and start points in the file: read as they stand, or refused."""

from __future__ import annotations

import pytest

from hpoctl import config
from hpoctl.errors import ConfigError
from hpoctl.space import Condition
from hpoctl.sweep import Sweep

SWEEP = """\
study: adapters
objective: m:f
search_space:
  method: {{type: categorical, values: [full, lora, dora], prior: lora}}
  lr: {{type: log_uniform, min: 1e-6, max: 1e-3}}
  lora:
    when: {{method: [lora, dora]}}
    r: {{type: categorical, values: [4, 8, 16]}}
    scale:
      rank: {{type: int, min: 1, max: 9, {rank}}}
budget: {{trials: 20}}
{more}
"""


def read(rank: str = "", more: str = "") -> Sweep:
    return config.parse(SWEEP.format(rank=rank, more=more), "sweep.yaml")


def refusal(rank: str = "", more: str = "") -> str:
    with pytest.raises(ConfigError) as refused:
        read(rank, more)
    return str(refused.value)


def test_a_group_passes_its_condition_to_all_below() -> None:
    space = read().search_space
    lora = Condition(name="method", values=("lora", "dora"))
    assert space.when == {"lora.r": (lora,), "lora.scale.rank": (lora,)}


@pytest.mark.parametrize("name", ["r", "lora.r"])
def test_a_name_is_looked_for_in_the_own_group_first_and_then_around_it(name: str) -> None:
    space = read(f"when: {{{name}: 8}}").search_space
    assert space.when["lora.scale.rank"][1] == Condition(name="lora.r", values=(8,))


def test_a_prior_and_start_points_are_run_first() -> None:
    sweep = read(
        more="start: [{method: full, lr: 1e-5}, {method: lora}, {lora: {r: 4}, method: dora}]"
    )
    assert sweep.starts == (
        {"method": "lora"},
        {"method": "full", "lr": 1e-5},
        {"lora.r": 4, "method": "dora"},
    )


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ("when: {methd: lora}", "rank.when.methd: 'methd' is not in the search space; did you"),
        ("when: {method: loar}", "rank.when.method: 'loar' is not a value of method: one of full"),
        ("when: {lr: 1e-5}", "rank.when.lr: lr is a continuous range, which has no values"),
        ("when: {method: []}", "rank.when.method: is empty: list at least one value"),
        ("when: lora", "rank.when: should name parameters and their values, as in {method: lora}"),
        ("when: {}", "rank.when: should name parameters and their values, as in {method: lora}"),
        ("when: {method: full}", "rank.when: never holds: method is lora or dora, and method is"),
        ("when: {rank: 1}", "rank.when: goes in a circle: lora.scale.rank depends on lora.scale"),
        ("divides: lr", "rank.divides: lr is not made of whole numbers above 0"),
        ("divides: s", "rank.divides: 's' is not in the search space"),
        ("prior: 10", "rank.prior: is 10, outside its range: 1 to 9"),
        ("prior: [1]", "rank.prior: is [1], outside its range: 1 to 9"),
        ("prio: 1", "rank.prio: unknown key; did you mean 'prior'?"),
    ],
)
def test_what_cannot_be_is_named_with_its_line(rank: str, message: str) -> None:
    assert refusal(rank).startswith(f"sweep.yaml:10: search_space.lora.scale.{message}")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("{lora: {r: 4}}", "'lora.r' is there only where method is lora or dora: say so, or leave"),
        ("{method: full, lora: {r: 4}}", "'lora.r' is there only where method is lora or dora"),
        ("{methd: full}", "'methd' is not in the search space; did you mean 'method'?"),
        ("{method: half}", "'method' is 'half', outside its range: one of full, lora, dora"),
        ("{}", "a point is a mapping, nested as the search space is"),
        ("3", "a point is a mapping, nested as the search space is"),
    ],
)
def test_a_start_point_that_cannot_be_is_refused(point: str, message: str) -> None:
    assert f"start.0: {message}" in refusal(more=f"start: [{point}]")


def test_a_start_point_names_both_of_what_divides() -> None:
    message = "'lora.scale.rank' divides lora.r: give that too"
    more = "start: [{method: lora, lora: {scale: {rank: 4}}}]"
    assert message in refusal("divides: r", more)
    more = "start: [{method: lora, lora: {r: 4, scale: {rank: 3}}}]"
    assert "'lora.scale.rank' is 3, which does not divide 4" in refusal("divides: r", more)


def test_a_manual_point_has_what_is_there_and_nothing_else() -> None:
    points = "sampler: {{name: manual, points: [{}]}}\n"
    full = "{method: full, lr: 1e-4}"
    text = SWEEP.replace("budget: {{trials: 20}}\n", "")
    given = config.parse(text.format(rank="", more=points.format(full)), "sweep.yaml")
    assert given.trials == 1
    for point, message in [
        ("{method: lora, lr: 1e-4}", "'lora.r' is missing: a point names every parameter"),
        ("{method: full, lr: 1e-4, lora: {r: 4}}", "'lora.r' is there only where method is"),
    ]:
        with pytest.raises(ConfigError, match=message):
            config.parse(text.format(rank="", more=points.format(point)), "sweep.yaml")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("sampler: grid\nstart: [{method: full}]", "start: grid has its own points: leave 'start'"),
        (
            "start: [{method: full}, {method: dora}]\nbudget: {trials: 2}",
            "budget: 3 points to start with need as many trials, not 2",
        ),
        (
            "command: [run, '{lora.r}']",
            "command: {lora.r} is not in every trial: write it with its flag, --r={lora.r}, which"
            " is left out where there is none",
        ),
        (
            "sampler: cmaes\nmetrics: [{name: a}, {name: b}]",
            "sampler: cmaes learns from one metric",
        ),
        (
            "sampler: {name: cmaes, with_margin: true, lr_adapt: true}",
            "sampler.lr_adapt: with_marg",
        ),
        ("sampler: {name: tpe, multivariate: false, group: true}", "sampler.group: 'group' needs"),
        ("sampler: {name: qmc, qmc_type: sobl}", "'sobl' is not known; did you mean 'sobol'?"),
        ("pruner: hyperband", "pruner.max_resource: is missing"),
        ("pruner: threshold", "pruner.lower: give 'lower' or 'upper' or both"),
        ("pruner: {name: threshold, lower: 2, upper: 1}", "pruner.lower: 2 is above upper 1: swap"),
        (
            "pruner: {name: hyperband, min_resource: 9, max_resource: 3}",
            "pruner.min_resource: 9 is above max_resource 3: swap them",
        ),
        (
            "pruner: {name: patient, patience: 2, wrapped: patient}",
            "pruner.wrapped: 'patient' is not known; known: none, median",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(more: str, message: str) -> None:
    text = SWEEP.format(rank="", more=more)
    for key in ("objective", "budget"):
        if f"{'command' if key == 'objective' else key}:" in more:
            text = "\n".join(
                line for line in text.splitlines() if not line.startswith(f"{key}:") or line in more
            )
    with pytest.raises(ConfigError) as refused:
        config.parse(text, "sweep.yaml")
    assert message in str(refused.value)


def test_cmaes_needs_a_number_that_every_trial_has() -> None:
    text = SWEEP.format(rank="", more="sampler: cmaes")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("  lr:"))
    with pytest.raises(ConfigError, match="cmaes learns numbers that every trial has"):
        config.parse(text, "sweep.yaml")
