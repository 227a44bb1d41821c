"""The samplers that a sweep may name, with their options; what each is able to. No Optuna here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hpoctl.errors import ConfigError
from hpoctl.values import Flag, Positive, Share, Values, named


class Grid(Values):
    """Every cell of the space, each once."""

    name: Literal["grid"] = "grid"


class Random(Values):
    """Independent random points, drawn when the sweep is submitted."""

    name: Literal["random"] = "random"


class Qmc(Values):
    """Points that leave no gaps (Sobol' 1967, Halton 1960), drawn when the sweep is submitted."""

    name: Literal["qmc"] = "qmc"
    qmc_type: Literal["sobol", "halton"] = "sobol"
    scramble: Flag = True


class Manual(Values):
    """A list of points, each nested as the search space is."""

    name: Literal["manual"] = "manual"
    points: tuple[Mapping[str, Any], ...]


class Tpe(Values):
    """Tree-structured Parzen estimator (Bergstra et al. 2011), as Optuna builds it."""

    name: Literal["tpe"] = "tpe"
    n_startup_trials: Positive = 10
    n_ei_candidates: Positive = 24
    multivariate: Flag = True
    group: Flag | None = None  # None: where there are conditions
    constant_liar: Flag = True

    @model_validator(mode="after")
    def _groups_are_multivariate(self) -> Tpe:
        if self.group and not self.multivariate:
            text = "'group' needs 'multivariate: true'"
            raise PydanticCustomError("option", "{text}", {"key": "group", "text": text})
        return self


class Gp(Values):
    """Bayesian optimization with a Gaussian process (log expected improvement), as Optuna's."""

    name: Literal["gp"] = "gp"
    n_startup_trials: Positive = 10
    deterministic_objective: Flag = False


class Cmaes(Values):
    """Covariance matrix adaptation (Hansen 2001), by the package `cmaes`; numbers only."""

    name: Literal["cmaes"] = "cmaes"
    n_startup_trials: Positive = 1
    popsize: Annotated[int, Field(strict=True, ge=2)] | None = None
    consider_pruned_trials: Flag = False
    use_separable_cma: Flag = False
    with_margin: Flag = False
    lr_adapt: Flag = False

    @model_validator(mode="after")
    def _one_variant(self) -> Cmaes:
        variants = ("use_separable_cma", "with_margin", "lr_adapt")
        given = [variant for variant in variants if getattr(self, variant)]
        if len(given) > 1:
            text = f"{' and '.join(given)} exclude each other: keep one"
            raise PydanticCustomError("option", "{text}", {"key": given[1], "text": text})
        return self


class Nsga2(Values):
    """Non-dominated sorting genetic algorithm II (Deb et al. 2002), as Optuna builds it."""

    name: Literal["nsga2"] = "nsga2"
    population_size: Annotated[int, Field(strict=True, ge=2)] = 50
    mutation_prob: Share | None = None
    crossover_prob: Share = 0.9
    swapping_prob: Share = 0.5


Learning = Tpe | Gp | Cmaes | Nsga2  # choose when a worker takes the trial, from those so far
Listed = Grid | Manual  # know their own number of points
AnySampler = Grid | Random | Qmc | Manual | Learning
Sampler = Annotated[
    Annotated[AnySampler, Field(discriminator="name")],
    BeforeValidator(named),
]

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "gp": ("scipy", "torch"),
    "cmaes": ("cmaes",),
    "qmc": ("scipy",),
}


def missing_packages(sampler: AnySampler) -> str:
    """The packages that a sampler needs and this Python has not; none of them is imported."""
    needs = _PACKAGES.get(sampler.name, ())
    return " and ".join(name for name in needs if importlib.util.find_spec(name) is None)


def require_packages(sampler: AnySampler) -> None:
    """Refuses to choose points without the packages for it. Raises ConfigError."""
    if isinstance(sampler, Learning) and (missing := missing_packages(sampler)):
        raise ConfigError(f"sampler {sampler.name} needs {missing}, which {sys.executable} lacks")
