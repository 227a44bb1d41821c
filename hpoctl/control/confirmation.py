"""`confirm`: the winners of a search once more, with other seeds, and what that says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from hpoctl.errors import ConfigError, StudyError
from hpoctl.origin import Origin
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.ranking import ranked
from hpoctl.rundir import RunDir
from hpoctl.samplers import Manual
from hpoctl.words import OriginKind

TOP, SEEDS = 3, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmRequest:
    """What `confirm` was asked for; what is None is as before, or at first `TOP` and `SEEDS`.

    `overrides` change keys of the sweep that is made; `name` is its study's.
    """

    study: str
    top: int | None = None
    trials: tuple[int, ...] | None = None
    seeds: int | None = None
    name: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """How far a confirmation is, and what it says so far."""

    study: str
    name: str
    run_dir: Path
    metric: str
    seeds: int
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
    if other or wanted.trials not in (None, origin.trials):
        numbers = ", ".join(map(str, origin.trials))
        raise ConfigError(
            f"study '{name}' runs trials {numbers} with {seeds} seeds already: give no --top,"
            f" --trials or --seeds to see it, or another --name"
        )


def _text(wanted: ConfirmRequest, opened: OpenRun, name: str) -> str:
    tree, winners = keys_of(opened, wanted.overrides), _winners(wanted, opened)
    origin = derive.origin(
        OriginKind.CONFIRM,
        opened.run.study,
        run_dir=str(opened.run_dir.path),
        trials=[winner.number for winner in winners],
        values=[(winner.values or (math.nan,))[0] for winner in winners],
    )
    points = [winner.params for winner in winners]
    seeds = wanted.seeds or SEEDS
    derived = derive.confirm(tree, points, origin, study=name, repeats=seeds)
    return derive.text(derived, name, wanted.overrides)


def _winners(wanted: ConfirmRequest, opened: OpenRun) -> list[TrialRecord]:
    if wanted.trials is not None:
        return chosen(opened, wanted.trials)
    return winners(opened, wanted.top or TOP)


def winners(opened: OpenRun, most: int) -> list[TrialRecord]:
    """The best complete trials, no point twice. Raises StudyError if there is none."""
    metrics = opened.sweep().objectives
    if len(metrics) > 1:
        raise ConfigError(
            f"study '{opened.run.study}' has {len(metrics)} metrics, and no single order:"
            " name the trials yourself ('hpoctl trials' lists them)"
        )
    found: list[TrialRecord] = []
    feasible = [record for record in opened.store().records() if record.feasible]
    for record in ranked(feasible, metrics):
        if len(found) < most and record.params not in [known.params for known in found]:
            found.append(record)
    if not found:
        raise StudyError(f"study '{opened.run.study}' has no complete trial yet")
    return found


def chosen(opened: OpenRun, numbers: Sequence[int]) -> list[TrialRecord]:
    """These trials, in the order of their values. Raises StudyError for one that has none."""
    records = {record.number: record for record in opened.store().records()}
    for number in numbers:
        if number not in records:
            raise StudyError(f"there is no trial {number}: 'hpoctl trials' lists them")
        if records[number].state is not TrialState.COMPLETE:
            raise StudyError(f"trial {number} is {records[number].state}, and has no value")
    return ranked([records[number] for number in numbers], opened.sweep().objectives)


def _read(run_dir: RunDir, submitted: Submitted | None) -> Confirmation:
    sweep, (records, unfinished) = open_run(str(run_dir.path)).sweep(), results(run_dir)
    origin, sampler = sweep.origin, sweep.sampler
    assert isinstance(origin, Origin), "derived"
    assert isinstance(sampler, Manual), "derived"
    values: list[dict[int, float]] = [{} for _ in origin.trials]
    for place, record in records.items():
        repetition, winner = divmod(place, len(origin.trials))
        value = record.values[0] if record.values else math.nan
        if record.state is TrialState.COMPLETE and math.isfinite(value):
            values[winner][repetition] = value
    searched = list(zip(origin.trials, origin.values, strict=True))
    return Confirmation(
        study=origin.study,
        name=sweep.study,
        run_dir=run_dir.path,
        metric=sweep.objectives[0].name,
        seeds=sampler.repeats or 1,
        unfinished=unfinished,
        failed=len(records) - unfinished - sum(map(len, values)),
        comparison=comparison.compare(searched, values, goal=sweep.objectives[0].goal),
        submitted=submitted,
    )
