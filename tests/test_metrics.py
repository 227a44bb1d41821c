"""What the study makes of a trial's values: the weighted sum, and by how much limits are passed."""

from __future__ import annotations

import math

import pytest

from hpoctl.metrics import (
    Constraint,
    Metric,
    out_of_memory,
    signed_weights,
    violations,
    weigh,
)
from hpoctl.words import Cause

MEMORY = Constraint(name="memory_gb", max=8)
SPEED = Constraint(name="speed", min=100)


@pytest.mark.parametrize(
    ("constraint", "value", "violation"),
    [
        (MEMORY, 8.0, 0.0),
        (MEMORY, 9.5, 1.5),
        (MEMORY, 2.0, -6.0),
        (SPEED, 90.0, 10.0),
        (SPEED, 130.0, -30.0),
        (SPEED, -math.inf, math.inf),
        (Constraint(name="a", min=1, max=3), 2.5, -0.5),
        (Constraint(name="a", min=1, max=3), 0.0, 1.0),
        (Constraint(name="a", min=1, max=3), 4.0, 1.0),
    ],
)
def test_a_violation_is_how_far_a_value_is_beyond_its_limit(
    constraint: Constraint, value: float, violation: float
) -> None:
    assert constraint.violation(value) == violation


def test_only_values_that_are_known_are_judged() -> None:
    assert violations([MEMORY, SPEED], {"speed": 50, "other": 1.0}) == {"speed": 50.0}


def test_a_weighted_sum_is_less_where_a_metric_to_be_maximised_is_more() -> None:
    metrics = [Metric(name="loss", weight=0.7), Metric(name="acc", goal="maximize", weight=0.3)]
    weights = signed_weights(metrics)
    assert weights == {"loss": 0.7, "acc": -0.3}
    assert weigh(weights, {"loss": 2.0, "acc": 0.5}) == pytest.approx(1.25)
    assert signed_weights([Metric(name="loss")]) == {}


def test_who_ran_out_of_memory_is_above_its_limit_in_any_case() -> None:
    limits = [MEMORY, SPEED]
    known = out_of_memory(limits, Cause.CUDA_OOM, {"memory_gb": 11.0, "host_memory_gb": 50.0})
    assert known == {"memory_gb": 3.0}
    assert out_of_memory(limits, Cause.CUDA_OOM, {"memory_gb": 7.0}) == {"memory_gb": 0.1}
    assert out_of_memory(limits, Cause.CUDA_OOM, {}) == {"memory_gb": 0.1}
    assert out_of_memory(limits, Cause.HOST_OOM, {"host_memory_gb": 50.0}) == {}
    assert out_of_memory(limits, Cause.ERROR, {"memory_gb": 11.0}) == {}
