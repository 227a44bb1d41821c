"""The pruners that a sweep may name, with their options. No Optuna here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hpoctl.values import NotNegative, Positive, Values, named

_Factor = Annotated[int, Field(strict=True, ge=2)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class NoPruner(Values):
    """Every trial runs to its end."""

    name: Literal["none"] = "none"


class Median(Values):
    """Ends a trial that is worse than the median of the finished ones at its step."""

    name: Literal["median"] = "median"
    n_startup_trials: NotNegative = 5
    n_warmup_steps: NotNegative = 0
    interval_steps: Positive = 1
    n_min_trials: Positive = 1


class Percentile(Values):
    """Ends a trial that is not in the best `percentile` of the finished ones at its step."""

    name: Literal["percentile"] = "percentile"
    percentile: Annotated[float, Field(strict=True, ge=0, le=100)]
    n_startup_trials: NotNegative = 5
    n_warmup_steps: NotNegative = 0
    interval_steps: Positive = 1
    n_min_trials: Positive = 1


class Threshold(Values):
    """Ends a trial that reports a value below `lower` or above `upper`, or none."""

    name: Literal["threshold"] = "threshold"
    lower: _Number | None = None
    upper: _Number | None = None
    n_warmup_steps: NotNegative = 0
    interval_steps: Positive = 1

    @model_validator(mode="after")
    def _has_a_bound(self) -> Threshold:
        if self.lower is None and self.upper is None:
            raise _wrong("lower", "give 'lower' or 'upper' or both")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise _wrong("lower", f"{self.lower:g} is above upper {self.upper:g}: swap them")
        return self


class Asha(Values):
    """Asynchronous successive halving (Li et al. 2018), as Optuna builds it."""

    name: Literal["asha"] = "asha"
    min_resource: Positive = 1
    reduction_factor: _Factor = 4
    min_early_stopping_rate: NotNegative = 0
    bootstrap_count: NotNegative = 0


class Hyperband(Values):
    """Several of `asha`, each with a later first rung (Li et al. 2018), as Optuna builds it.

    `max_resource` has no default: Optuna's takes it from the first trials that a worker sees, and
    workers would disagree on which trial is whose.
    """

    name: Literal["hyperband"] = "hyperband"
    max_resource: Positive
    min_resource: Positive = 1
    reduction_factor: _Factor = 3
    bootstrap_count: NotNegative = 0

    @model_validator(mode="after")
    def _grows(self) -> Hyperband:
        if self.min_resource > self.max_resource:
            text = f"{self.min_resource} is above max_resource {self.max_resource}: swap them"
            raise _wrong("min_resource", text)
        return self


Wrapped = Annotated[
    Annotated[
        NoPruner | Median | Percentile | Threshold | Asha | Hyperband, Field(discriminator="name")
    ],
    BeforeValidator(named),
]


class Patient(Values):
    """Ends a trial that has not become better for `patience` reports, if `wrapped` wants it too."""

    name: Literal["patient"] = "patient"
    patience: NotNegative
    min_delta: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] = 0.0
    wrapped: Wrapped = NoPruner()


AnyPruner = NoPruner | Median | Percentile | Threshold | Asha | Hyperband | Patient
Pruner = Annotated[
    Annotated[AnyPruner, Field(discriminator="name")],
    BeforeValidator(named),
]


def _wrong(key: str, text: str) -> PydanticCustomError:
    return PydanticCustomError("option", "{text}", {"key": key, "text": text})
