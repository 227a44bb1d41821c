"""Between our values and Optuna's: samplers, pruners, distributions, trials. Opens no storage."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, create_trial

from hpoctl.record import TrialRecord, TrialState
from hpoctl.space import Categorical, Distribution, Float, Int, Params, SearchSpace, Value
from hpoctl.study.protocol import Outcome
from hpoctl.study.rows import Parts
from hpoctl.sweep import Asha, Median, NoPruner, Sweep, Tpe
from hpoctl.trial import derive_seed

_STATES = {
    optuna.trial.TrialState.WAITING: TrialState.WAITING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}

ENDS = {
    Outcome.COMPLETE: optuna.trial.TrialState.COMPLETE,
    Outcome.PRUNED: optuna.trial.TrialState.PRUNED,
    Outcome.FAILED: optuna.trial.TrialState.FAIL,
}


def sampler(sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial: seeded by the trial's number, so the worker does not matter."""
    seed = derive_seed(sweep.seed, number)
    match sweep.sampler:
        case Tpe(n_startup_trials=startup, multivariate=multivariate):
            return optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=startup, multivariate=multivariate, constant_liar=True
            )
        case _:  # every point was drawn when the sweep was submitted
            return optuna.samplers.RandomSampler(seed=seed)


def pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """The pruner that the sweep names."""
    match sweep.pruner:
        case Median():
            return optuna.pruners.MedianPruner(
                n_startup_trials=sweep.pruner.n_startup_trials,
                n_warmup_steps=sweep.pruner.n_warmup_steps,
                interval_steps=sweep.pruner.interval_steps,
            )
        case Asha():
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=sweep.pruner.min_resource,
                reduction_factor=sweep.pruner.reduction_factor,
                min_early_stopping_rate=sweep.pruner.min_early_stopping_rate,
            )
        case NoPruner():
            return optuna.pruners.NopPruner()


def _distribution(distribution: Distribution) -> BaseDistribution:
    match distribution:
        case Categorical(choices=choices):
            return CategoricalDistribution(choices)
        case Int(low=low, high=high, log=log, step=step):
            return IntDistribution(low, high, log=log, step=step)
        case Float(low=low, high=high, log=log, step=float_step):
            return FloatDistribution(low, high, log=log, step=float_step)


def read_parts(sweep: Sweep) -> Parts | None:
    """What samplers and pruners read of other trials; None where they read nothing."""
    tpe, median, asha = (
        isinstance(sweep.sampler, Tpe),
        isinstance(sweep.pruner, Median),
        isinstance(sweep.pruner, Asha),
    )
    if not (tpe or median or asha):
        return None
    steps = (*(["PRUNED"] if tpe else []), *(["COMPLETE"] if median else []))
    return Parts(params=tpe, values=True, attrs=asha, steps=steps)


def encoder(space: SearchSpace) -> Callable[[str, Value], tuple[float, str]]:
    """Turns a parameter into what Optuna's tables hold: its number, its distribution as JSON."""
    known = {name: _distribution(given) for name, given in space.parameters.items()}
    texts = {name: distribution_to_json(distribution) for name, distribution in known.items()}
    return lambda name, value: (known[name].to_internal_repr(value), texts[name])


def template(space: SearchSpace, point: Params) -> FrozenTrial:
    """A waiting trial with these parameters, ready to be stored."""
    return create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=dict(point),
        distributions={name: _distribution(space.parameters[name]) for name in point},
    )


def suggest(trial: optuna.Trial, name: str, distribution: Distribution) -> Value:
    """The parameter as queued, else as the sampler wants it."""
    value: Value
    match distribution:
        case Categorical(choices=choices):
            value = trial.suggest_categorical(name, choices)
        case Int(low=low, high=high, log=log, step=step):
            value = trial.suggest_int(name, low, high, log=log, step=step)
        case Float(low=low, high=high, log=log, step=float_step):
            value = trial.suggest_float(name, low, high, log=log, step=float_step)
    return value


def record(frozen: FrozenTrial) -> TrialRecord:
    """One of Optuna's trials as we keep them."""
    return TrialRecord(
        number=frozen.number,
        state=_STATES[frozen.state],
        values=tuple(frozen.values) if frozen.values is not None else None,
        params=frozen.params,
        steps=frozen.intermediate_values,
        started=frozen.datetime_start and frozen.datetime_start.astimezone(UTC),
        ended=frozen.datetime_complete and frozen.datetime_complete.astimezone(UTC),
        attrs=frozen.user_attrs,
    )
