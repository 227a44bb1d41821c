"""Between our values and Optuna's: samplers, pruners, distributions, trials. Opens no storage."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from hpoctl import pruners
from hpoctl.record import Parent, TrialRecord, TrialState
from hpoctl.samplers import Cmaes, Gp, Learning, Nsga2, Tpe
from hpoctl.space import Categorical, Distribution, Float, Int, Params, SearchSpace, Value
from hpoctl.study.protocol import PARENT_KEY, Outcome
from hpoctl.study.rows import NEW_ATTRS, NEW_VALUES, News, Parts
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed

_TRIES = 20  # so often a sampler is asked for a value that goes with the others
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
    with warnings.catch_warnings():
        # Which options are experimental, the sweep file's reference says.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _sampler(sweep, derive_seed(sweep.seed, number))


def _sampler(sweep: Sweep, seed: int) -> optuna.samplers.BaseSampler:
    match sweep.sampler:
        case Tpe():
            conditional = bool(sweep.search_space.when) and sweep.sampler.multivariate
            return optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=sweep.sampler.n_startup_trials,
                n_ei_candidates=sweep.sampler.n_ei_candidates,
                multivariate=sweep.sampler.multivariate,
                group=conditional if sweep.sampler.group is None else sweep.sampler.group,
                constant_liar=sweep.sampler.constant_liar,
            )
        case Gp():
            return optuna.samplers.GPSampler(
                seed=seed,
                n_startup_trials=sweep.sampler.n_startup_trials,
                deterministic_objective=sweep.sampler.deterministic_objective,
                warn_independent_sampling=False,
            )
        case Cmaes():
            return optuna.samplers.CmaEsSampler(
                seed=seed,
                n_startup_trials=sweep.sampler.n_startup_trials,
                popsize=sweep.sampler.popsize,
                consider_pruned_trials=sweep.sampler.consider_pruned_trials,
                use_separable_cma=sweep.sampler.use_separable_cma,
                with_margin=sweep.sampler.with_margin,
                lr_adapt=sweep.sampler.lr_adapt,
                warn_independent_sampling=False,
            )
        case Nsga2():
            return optuna.samplers.NSGAIISampler(
                seed=seed,
                population_size=sweep.sampler.population_size,
                mutation_prob=sweep.sampler.mutation_prob,
                crossover_prob=sweep.sampler.crossover_prob,
                swapping_prob=sweep.sampler.swapping_prob,
            )
        case _:  # every point was drawn when the sweep was submitted
            return optuna.samplers.RandomSampler(seed=seed)


def pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    """The pruner that the sweep names."""
    return _pruner(sweep.pruner)


def _pruner(given: pruners.AnyPruner) -> optuna.pruners.BasePruner:
    match given:
        case pruners.Median():
            return optuna.pruners.MedianPruner(
                n_startup_trials=given.n_startup_trials,
                n_warmup_steps=given.n_warmup_steps,
                interval_steps=given.interval_steps,
                n_min_trials=given.n_min_trials,
            )
        case pruners.Percentile():
            return optuna.pruners.PercentilePruner(
                given.percentile,
                n_startup_trials=given.n_startup_trials,
                n_warmup_steps=given.n_warmup_steps,
                interval_steps=given.interval_steps,
                n_min_trials=given.n_min_trials,
            )
        case pruners.Threshold():
            return optuna.pruners.ThresholdPruner(
                lower=given.lower,
                upper=given.upper,
                n_warmup_steps=given.n_warmup_steps,
                interval_steps=given.interval_steps,
            )
        case pruners.Asha():
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=given.min_resource,
                reduction_factor=given.reduction_factor,
                min_early_stopping_rate=given.min_early_stopping_rate,
                bootstrap_count=given.bootstrap_count,
            )
        case pruners.Hyperband():
            return optuna.pruners.HyperbandPruner(
                min_resource=given.min_resource,
                max_resource=given.max_resource,
                reduction_factor=given.reduction_factor,
                bootstrap_count=given.bootstrap_count,
            )
        case pruners.Patient(wrapped=pruners.NoPruner()):
            return _patient(None, given)
        case pruners.Patient():
            return _patient(_pruner(given.wrapped), given)
        case pruners.NoPruner():
            return optuna.pruners.NopPruner()


def _patient(
    wrapped: optuna.pruners.BasePruner | None, given: pruners.Patient
) -> optuna.pruners.BasePruner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.pruners.PatientPruner(
            wrapped, patience=given.patience, min_delta=given.min_delta
        )


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
    news, sampler = pruner_news(sweep.pruner), sweep.sampler
    learns = isinstance(sampler, Learning)
    if not learns and news is None:
        return None
    ranks_pruned = isinstance(sampler, Tpe) or (
        isinstance(sampler, Cmaes) and sampler.consider_pruned_trials
    )
    steps = (
        *(["PRUNED"] if ranks_pruned else []),
        *(["COMPLETE"] if news is NEW_VALUES else []),
    )
    attrs = news is NEW_ATTRS or learns  # constraints, and notes
    return Parts(params=learns, values=True, attrs=attrs, steps=steps)


def keeps_notes(sweep: Sweep) -> bool:
    """Whether the sampler reads again what it noted on other trials: their generation."""
    return isinstance(sweep.sampler, Cmaes | Nsga2)


def pruner_news(given: pruners.AnyPruner) -> News | None:
    """Where the news stand that a pruner compares with; None where it looks at its trial alone."""
    match given:
        case pruners.Median() | pruners.Percentile():
            return NEW_VALUES
        case pruners.Asha() | pruners.Hyperband():
            return NEW_ATTRS
        case pruners.Patient():
            return pruner_news(given.wrapped)
        case pruners.Threshold() | pruners.NoPruner():
            return None


def encoder(space: SearchSpace) -> Callable[[str, Value], tuple[float, str]]:
    """Turns a parameter into what Optuna's tables hold: its number, its distribution as JSON."""
    known = {name: _distribution(given) for name, given in space.parameters.items()}
    texts = {name: distribution_to_json(distribution) for name, distribution in known.items()}
    return lambda name, value: (known[name].to_internal_repr(value), texts[name])


def template(space: SearchSpace, point: Params, parent: Parent | None = None) -> FrozenTrial:
    """A waiting trial with these parameters, ready to be stored."""
    return create_trial(
        state=optuna.trial.TrialState.WAITING,
        params=dict(point),
        distributions={name: _distribution(space.parameters[name]) for name in point},
        system_attrs=None if parent is None else {PARENT_KEY: parent},
    )


def sample(study: optuna.Study, trial_id: int, sweep: Sweep) -> Params:
    """A whole point of a trial: as queued, else as the sampler wants it."""
    space = sweep.search_space
    number = study._storage.get_trial(trial_id).number
    study.sampler = sampler(sweep, number)
    study._thread_local.cached_all_trials = None  # of the trial before
    with _one_thread(sweep):
        trial = optuna.Trial(study, trial_id)

        def choose(name: str, point: Params) -> Value:
            if name in space.divides and name not in trial.params:
                fitting = space.fitting(name, point)
                trial._fixed_params[name] = _fitting(trial, name, space.parameters[name], fitting)
            return suggest(trial, name, space.parameters[name])

        return space.fill(choose)


@contextmanager
def _one_thread(sweep: Sweep) -> Iterator[None]:
    """Keeps torch from starting threads: a pool of OpenMP does not survive the trial's fork."""
    if not isinstance(sweep.sampler, Gp):
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fitting(
    trial: optuna.Trial, name: str, distribution: Distribution, fitting: Sequence[Value]
) -> Value:
    """What the sampler wants of a parameter, of those values that go with the others.

    A sampler knows one distribution a name, so it is asked again for a value that does not.
    """
    wanted = _distribution(distribution)
    value: Value = trial.relative_params.get(name)
    for _ in range(_TRIES):
        if value in fitting:
            return value
        value = trial.study.sampler.sample_independent(
            trial.study, trial._get_latest_trial(), name, wanted
        )
    return value if value in fitting else fitting[trial.number % len(fitting)]


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


def parent(frozen: FrozenTrial) -> Parent | None:
    """The trial that one of a population goes on from."""
    known = frozen.system_attrs.get(PARENT_KEY)
    return None if known is None else Parent(*known)


def record(frozen: FrozenTrial) -> TrialRecord:
    """One of Optuna's trials as we keep them."""
    origin = parent(frozen)
    return TrialRecord(
        number=frozen.number,
        state=_STATES[frozen.state],
        values=tuple(frozen.values) if frozen.values is not None else None,
        params=frozen.params,
        steps=frozen.intermediate_values,
        started=frozen.datetime_start and frozen.datetime_start.astimezone(UTC),
        ended=frozen.datetime_complete and frozen.datetime_complete.astimezone(UTC),
        attrs={**frozen.user_attrs, **({} if origin is None else {"parent": origin.number})},
        constraints=frozen.constraints,
    )
