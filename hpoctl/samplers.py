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
    """A list of points, each nested as the search space is; the whole list `repeats` times.

    With `repeats` every point has the same seeds, one a repetition, so that points can be compared.
    """

    name: Literal["manual"] = "manual"
    points: tuple[Mapping[str, Any], ...]
    repeats: Positive | None = None

    @property
    def trials(self) -> int:
        return len(self.points) * (self.repeats or 1)


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


class Pbt(Values):
    """Population-based training (Jaderberg et al. 2017): members train on, the worst are replaced.

    `exploit` is the share that is replaced, each by a mutated copy of one of the best such share.
    What is mutated is multiplied by up to 1 ± `perturb`, or drawn anew with chance `resample`.
    """

    name: Literal["pbt"] = "pbt"
    population: Annotated[int, Field(strict=True, ge=2)] = 4
    exploit: Annotated[float, Field(strict=True, gt=0, le=0.5)] = 0.5
    perturb: Annotated[float, Field(strict=True, gt=0, lt=1)] = 0.2
    resample: Share = 0.25
    mutate: tuple[str, ...] | None = None  # names and groups; None: see `mutates`
    inherit: Literal["weights", "nothing"] = "weights"

    @property
    def hands_on(self) -> bool:
        """Whether a trial goes on from what its parent has left."""
        return self.inherit == "weights"

    def mutates(self, name: str) -> bool:
        """Whether a mutation may change a parameter.

        Where weights are inherited, by itself none that says what they are the weights of.
        """
        if self.mutate is None:
            return not (self.hands_on and name.startswith(_OF_WEIGHTS))
        return any(name == one or name.startswith(f"{one}.") for one in self.mutate)


_OF_WEIGHTS = ("model.", "lora.")
Learning = Tpe | Gp | Cmaes | Nsga2 | Pbt  # choose when a worker takes the trial, from those so far
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
