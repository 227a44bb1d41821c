"""What is measured of a trial: metrics, constraints, and what the study makes of their values.

Pure but for the checks of the sweep file's keys `metrics` and `constraints`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from hpoctl.values import Values
from hpoctl.words import Cause

MEMORY = {Cause.CUDA_OOM: "memory_gb", Cause.HOST_OOM: "host_memory_gb"}
"""Under which name a trial's peak of memory is kept, by how it can run out."""

_USED_UP = 0.1  # the least violation by a trial that ran out of memory below the limit's own

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_./-]*$")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Metric(Values):
    """What is measured, and which way is better; with a weight, a part of one weighted sum."""

    name: Name
    goal: Literal["minimize", "maximize"] = "minimize"
    weight: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None


class Constraint(Values):
    """Limits of a value that the objective returns."""

    name: Name
    max: Number | None = None
    min: Number | None = None

    @model_validator(mode="after")
    def _has_a_limit(self) -> Constraint:
        if self.max is None and self.min is None:
            raise PydanticCustomError("limit", "needs 'max' or 'min'", {})
        if self.max is not None and self.min is not None and self.min > self.max:
            raise PydanticCustomError("limit", "'min' is above 'max': nothing fits", {})
        return self

    def violation(self, value: float) -> float:
        """By how much a value is beyond the limit; 0 or less where it is within."""
        over = -math.inf if self.max is None else value - self.max
        under = -math.inf if self.min is None else self.min - value
        return max(over, under)

    @property
    def in_words(self) -> str:
        """The limits as a few words."""
        limits = {"at least": self.min, "at most": self.max}
        given = [f"{words} {limit:g}" for words, limit in limits.items() if limit is not None]
        return f"{self.name} {' and '.join(given)}"


WEIGHTED = Metric(name="weighted", goal="minimize")
"""What a study of weighted metrics compares: their sum, where a metric to be maximised is less."""


def signed_weights(metrics: Sequence[Metric]) -> dict[str, float]:
    """Each metric's factor in the weighted sum; empty where metrics have no weights."""
    return {
        metric.name: metric.weight if metric.goal == "minimize" else -metric.weight
        for metric in metrics
        if metric.weight is not None
    }


def weigh(weights: Mapping[str, float], values: Mapping[str, float]) -> float:
    """The weighted sum, less is better. Raises KeyError where a value is missing."""
    return math.fsum(weight * values[name] for name, weight in weights.items())


def violations(constraints: Sequence[Constraint], values: Mapping[str, object]) -> dict[str, float]:
    """By how much each constraint is violated, of those whose value is known."""
    return {
        constraint.name: constraint.violation(float(value))
        for constraint in constraints
        if isinstance(value := values.get(constraint.name), int | float)
    }


def out_of_memory(
    constraints: Sequence[Constraint], cause: Cause, peaks: Mapping[str, object]
) -> dict[str, float]:
    """The constraint that a trial violates which ran out of memory, at least by a little.

    Empty where that memory has no limit here.
    """
    name = MEMORY.get(cause)
    if name not in {constraint.name for constraint in constraints}:
        return {}
    known = violations([c for c in constraints if c.name == name], peaks)
    return {str(name): max(known.get(str(name), 0.0), _USED_UP)}


def contradictions(
    metrics: Sequence[Metric], constraints: Sequence[Constraint], *, prunes: bool
) -> Iterator[tuple[str, str]]:
    """What does not go together: the key of the sweep file to change, and what to change."""
    names = [metric.name for metric in metrics]
    if not names:
        yield "metrics", "is empty: name at least one metric"
    if len(set(names)) < len(names):
        yield "metrics", f"'{max(names, key=names.count)}' stands twice: names must differ"
    weighted = [metric.weight is not None for metric in metrics]
    if any(weighted) and not all(weighted):
        yield "metrics", "some have a 'weight' and some have none: weight all, or none"
    if len(names) > 1 and not all(weighted) and prunes:
        yield "pruner", "a pruner compares one metric: leave it out, or give the metrics weights"
    limited = [constraint.name for constraint in constraints]
    if len(set(limited)) < len(limited):
        twice = max(limited, key=limited.count)
        yield "constraints", f"'{twice}' stands twice: give it 'min' and 'max' in one place"
