"""`confirm`: the winners of a search once more, with other seeds, and what that says of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from hpoctl import comparison, derive
from hpoctl.comparison import Comparison
from hpoctl.control.derived import (
    Watch,
    await_end,
    begin,
    beside,
    keys_of,
    origin_of,
    rehearse,
    results,
)
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.submission import Planned
from hpoctl.control.winners import chosen, metric_place, winners
from hpoctl.errors import ConfigError, StudyError
from hpoctl.origin import Origin
from hpoctl.plan import seed_of
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import RunDir
from hpoctl.samplers import Manual
from hpoctl.words import OriginKind

TOP, SEEDS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRequest:
    """What `confirm` was asked for; what is None is as before, or at first `TOP` and `SEEDS`.

    `by` is a metric of several, or `compromise`. `overrides` change keys of the sweep that is
    made; `name` is its study's.
    """

    study: str
    top: int | None = None
    trials: tuple[int, ...] | None = None
    seeds: int | None = None
    by: str | None = None
    name: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How far a confirmation is, and what it says so far; `drawn` are the seeds themselves."""

    study: str
    name: str
    run_dir: Path
    metric: str
    seeds: int
    drawn: tuple[int, ...]
    unfinished: int
    failed: int
    comparison: Comparison
    submitted: Submitted | None = None


def confirm(wanted: ConfirmRequest, watch: Watch | None = None) -> Confirmation:
    """Runs the winners of a study again as one array; called again, says how they did.

    Waits for the end where somebody watches. Raises StudyError where there are no winners.
    """
    opened, run_dir, name = _places(wanted)
    _refuse_another(wanted, run_dir, name)
    opened.refuse_strangers()
    submitted = begin(run_dir, opened.run.workdir, lambda: _text(wanted, opened, name))
    await_end(run_dir, watch)
    return _read(run_dir, submitted)


def rehearse_confirm(wanted: ConfirmRequest) -> tuple[str, Planned]:
    """The sweep file that `confirm` would submit, and its plan."""
    opened, run_dir, name = _places(wanted)
    text = _text(wanted, opened, name)
    return text, rehearse(run_dir, opened.run.workdir, text)


def read_confirmation(study: str) -> Confirmation | None:
    """What a confirmation says; None where the study is none."""
    run_dir = open_run(study).run_dir
    origin = origin_of(run_dir)
    if origin is None or origin.kind is not OriginKind.CONFIRM:
        return None
    return _read(run_dir, None)


def _places(wanted: ConfirmRequest) -> tuple[OpenRun, RunDir, str]:
    """The search, and the folder and the name of its confirmation, which may be named as well."""
    opened = open_run(wanted.study)
    origin = origin_of(opened.run_dir)
    if origin is not None and origin.kind is OriginKind.CONFIRM and origin.run_dir:
        return open_run(origin.run_dir), opened.run_dir, opened.run.study
    name = wanted.name or f"{opened.run.study}-confirm"
    return opened, beside(opened, name), name


def _refuse_another(wanted: ConfirmRequest, run_dir: RunDir, name: str) -> None:
    """Raises ConfigError where a confirmation of this name has other winners or seeds."""
    if not run_dir.plan_file.exists():
        return
    sweep, origin = open_run(str(run_dir.path)).sweep(), origin_of(run_dir)
    if origin is None or not isinstance(sweep.sampler, Manual):
        raise StudyError(f"{run_dir.path} holds a study that is no confirmation: give --name")
    top, seeds = len(origin.trials), sweep.sampler.repeats
    other = wanted.top not in (None, top) or wanted.seeds not in (None, seeds)
    other = other or wanted.by not in (None, origin.by)
    if other or wanted.trials not in (None, origin.trials):
        numbers = ", ".join(map(str, origin.trials))
        raise ConfigError(
            f"study '{name}' runs trials {numbers} with {seeds} seeds already: give no --top,"
            f" --trials, --by or --seeds to see it, or another --name"
        )


def _text(wanted: ConfirmRequest, opened: OpenRun, name: str) -> str:
    tree, winners = keys_of(opened, wanted.overrides), _winners(wanted, opened)
    which = metric_place(opened, wanted.by)
    origin = derive.origin(
        OriginKind.CONFIRM,
        opened.run.study,
        run_dir=str(opened.run_dir.path),
        trials=[winner.number for winner in winners],
        values=[winner.values[which] for winner in winners if winner.values],
        by=wanted.by,
    )
    points = [winner.params for winner in winners]
    seeds = wanted.seeds or SEEDS
    derived = derive.confirm(tree, points, origin, study=name, repeats=seeds)
    return derive.text(derived, name, wanted.overrides)


def _winners(wanted: ConfirmRequest, opened: OpenRun) -> list[TrialRecord]:
    if wanted.trials is not None:
        return chosen(opened, wanted.trials, wanted.by)
    return winners(opened, wanted.top or TOP, wanted.by)


def _read(run_dir: RunDir, submitted: Submitted | None) -> Confirmation:
    opened, (records, unfinished) = open_run(str(run_dir.path)), results(run_dir)
    sweep = opened.sweep()
    origin, sampler = sweep.origin, sweep.sampler
    assert isinstance(origin, Origin), "derived"
    assert isinstance(sampler, Manual), "derived"
    which = metric_place(opened, origin.by)
    metric = sweep.objectives[which]
    values: list[dict[int, float]] = [{} for _ in origin.trials]
    for number, record in records.items():
        repetition, winner = divmod(number, len(origin.trials))
        value = record.values[which] if record.values else math.nan
        if record.state is TrialState.COMPLETE and math.isfinite(value):
            values[winner][repetition] = value
    searched = list(zip(origin.trials, origin.values, strict=True))
    return Confirmation(
        study=origin.study,
        name=sweep.study,
        run_dir=run_dir.path,
        metric=metric.name,
        seeds=sampler.repeats or 1,
        drawn=tuple(seed_of(sweep, i * len(origin.trials)) for i in range(sampler.repeats or 1)),
        unfinished=unfinished,
        failed=len(records) - unfinished - sum(map(len, values)),
        comparison=comparison.compare(searched, values, goal=metric.goal),
        submitted=submitted,
    )
