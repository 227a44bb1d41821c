"""Population-based training (Jaderberg et al. 2017): what a member becomes next. Pure.

Trial `n` of a population of P is the next stretch of the member that trial `n - P` was: each trial
has one successor, whoever claims it. So no two workers can make two of one member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hpoctl.record import Parent, TrialRecord, TrialState
from hpoctl.samplers import Pbt
from hpoctl.space import Categorical, Distribution, Float, Params, SearchSpace, Value
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed

_TRIES = 20  # so often a mutation is made anew that has changed nothing
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What a member trains with next; without a parent it begins anew."""

    params: Params
    parent: Parent | None = None


def members(sweep: Sweep) -> int:
    """How many members the population has; 0 where a sweep has none."""
    return sweep.sampler.population if isinstance(sweep.sampler, Pbt) else 0


def is_ready(number: int, population: int, ended: set[int]) -> bool:
    """Whether a trial may begin: the one before it of its member has ended."""
    return number < population or number - population in ended


def succeed(sweep: Sweep, number: int, records: Sequence[TrialRecord]) -> Stretch:
    """The stretch that comes after trial `number - population`, by the latest of each member.

    Of the members that have ended one, the worst share is replaced, and so is whatever came to no
    value: each by a mutated copy of one of the best share. Raises KeyError for a first stretch.
    """
    sampler, rng = sweep.sampler, Random(derive_seed(sweep.seed, number))
    assert isinstance(sampler, Pbt), "no other sampler has a population"
    before = {record.number: record for record in records}[number - sampler.population]
    ranked = sorted(_latest(records, sampler.population), key=lambda one: _rank(sweep, one))
    share = math.floor(len(ranked) * sampler.exploit)
    if before.state is TrialState.COMPLETE and before not in ranked[len(ranked) - share :]:
        return Stretch(params=before.params, parent=_parent(before))
    best = [one for one in ranked[: max(1, share)] if one.state is TrialState.COMPLETE]
    if not best:
        return Stretch(params=sweep.search_space.draw(rng))
    source = rng.choice(best)
    params = mutated(source.params, sweep.search_space, sampler, rng)
    return Stretch(params=params, parent=_parent(source))


def superseded(records: Sequence[TrialRecord], population: int) -> list[int]:
    """The folders of trials from which no other one will go on any more.

    None while a claim may be about to choose among what it has just read.
    """
    running = [record for record in records if record.state is TrialState.RUNNING]
    if any(record.number >= population and not record.params for record in running):
        return []
    needed = {record.number for record in _latest(records, population)}
    needed |= {parent for record in records if (parent := _needs(record)) is not None}
    complete = (record for record in records if record.state is TrialState.COMPLETE)
    return [record.root for record in complete if record.number not in needed]


def mutated(params: Params, space: SearchSpace, sampler: Pbt, rng: Random) -> Params:
    """A copy in which every parameter that may be is perturbed or drawn anew; not the same."""

    def choose(name: str, point: Params) -> Value:
        distribution = space.parameters[name]
        value = params.get(name)
        if name not in params:  # there by another parameter's new value
            value = distribution.at(rng.random())
        elif sampler.mutates(name):
            value = _mutated(distribution, value, sampler, rng)
        if name in space.divides and not space.fits(name, value, point):
            value = rng.choice(space.fitting(name, point))
        return value

    changed = space.fill(choose)
    for _ in range(_TRIES):
        if changed != params:
            break
        sampler = sampler.model_copy(update={"resample": 1.0})  # `choose` draws all anew
        changed = space.fill(choose)
    return changed


def _mutated(distribution: Distribution, value: Value, sampler: Pbt, rng: Random) -> Value:
    if rng.random() < sampler.resample:
        return distribution.at(rng.random())
    if isinstance(distribution, Categorical) or not isinstance(value, int | float):
        return value
    wanted = value * rng.uniform(1 - sampler.perturb, 1 + sampler.perturb)
    if isinstance(distribution, Float) and distribution.step is None:
        return min(max(wanted, distribution.low), distribution.high)
    step = distribution.step
    assert step is not None, "else it is continuous"
    steps = math.floor((distribution.high - distribution.low) / step + 1e-8)
    at, wish = round((value - distribution.low) / step), (wanted - distribution.low) / step
    if round(wish) == at:  # a small number would never move
        wish = at + math.copysign(1, wish - at)
    return distribution.grid()[min(max(round(wish), 0), steps)]


def _latest(records: Sequence[TrialRecord], population: int) -> list[TrialRecord]:
    """The last trial of each member that has ended, however it did."""
    latest: dict[int, TrialRecord] = {}
    for record in sorted(records, key=lambda record: record.number):
        if record.state in _ENDED:
            latest[record.number % population] = record
    return list(latest.values())


def _rank(sweep: Sweep, record: TrialRecord) -> tuple[bool, float, float, int]:
    """What is better comes first: a value at all, no constraint violated, the value."""
    violated = sum(max(0.0, by) for by in record.constraints.values())
    value = record.values[0] if record.values else math.inf
    if sweep.objectives[0].goal == "maximize":
        value = -value
    return record.state is not TrialState.COMPLETE, violated, value, record.number


def _parent(record: TrialRecord) -> Parent:
    return Parent(record.number, record.root)


def _needs(record: TrialRecord) -> int | None:
    """The trial from which one that has not ended goes on."""
    parent = record.attrs.get("parent")
    return int(str(parent)) if parent is not None and record.state not in _ENDED else None
