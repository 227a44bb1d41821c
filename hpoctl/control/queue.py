"""More for a study that was submitted: a larger budget, and failed trials once more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpoctl import config
from hpoctl.control.attach import add_workers
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.raising import Raise, in_flags, spent, whole
from hpoctl.errors import ConfigError, HpoctlError, StudyError
from hpoctl.plan import queue
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import Extension
from hpoctl.samplers import Grid, Listed
from hpoctl.sweep import Sweep
from hpoctl.words import many


@dataclass(frozen=True, slots=True, kw_only=True)
class Extended:
    """A larger `budget`, as it was `asked` for, and the trials that were `queued` for it.

    `resumed` if this finished an `extend` that was cut short. `workers` is how many the sweep wants
    at once, `waiting` how many trials wait.
    """

    study: str
    run_dir: Path
    asked: Raise
    budget: Extension
    waiting: int
    queued: tuple[int, ...]
    resumed: bool
    notes: tuple[str, ...]
    workers: int
    attached: Submitted | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried:
    """Failed trials that wait once more: by its new number, the one that each repeats.

    `left` says of trials that were not queued why. `workers` is how many the sweep wants at once.
    """

    study: str
    run_dir: Path
    repeats: Mapping[int, int]
    left: Mapping[int, str]
    workers: int
    attached: Submitted | None


def extend(
    study: str, asked: Raise, *, workers: int | None, note: Callable[[str], None]
) -> Extended:
    """Raises the budget and queues the trials that are missing of it; then attaches workers.

    What is about to be done is written down first: the same call after a kill goes on with it, and
    queues nothing twice. `note` is told of a wait for lost trials. Raises ConfigError where the
    sampler knows its own number of trials, or the study has no such budget.
    """
    opened = open_run(study)
    opened.refuse_strangers()
    sweep, run_dir = opened.sweep(), opened.run_dir
    if asked.trials:
        _refuse_a_list(opened, sweep)
    with run_dir.locked():
        store = opened.store()
        cut_short = _cut_short(opened, asked)
        begun = cut_short or whole(opened, store, run_dir.budget(sweep.budget), asked)
        larger = None if isinstance(sweep.sampler, Listed) else _enlarge(opened, begun.trials)
        run_dir.note_extension(begun)
        queued = store.fill(list(queue(larger))) if larger else []
        try:
            attached = _attach(opened, workers, _done(asked, len(queued)), note)
        except HpoctlError:  # the user is told that the trials are there
            run_dir.note_extension(replace(begun, done=True))
            raise
        run_dir.note_extension(replace(begun, done=True))
    return Extended(
        study=opened.run.study,
        run_dir=run_dir.path,
        asked=asked,
        budget=begun,
        queued=tuple(queued),
        resumed=cut_short is not None,
        notes=tuple(spent(opened, store, run_dir.budget(sweep.budget))),
        workers=sweep.workers or 1,
        waiting=opened.summary().counts[TrialState.WAITING],
        attached=attached,
    )


def _done(asked: Raise, queued: int) -> str:
    if asked.trials or queued:
        return f"{many(queued, 'trial')} queued"
    return "the budget was raised"


def _refuse_a_list(opened: OpenRun, sweep: Sweep) -> None:
    """Refuses a sampler whose points are all queued. Raises ConfigError."""
    study, file = opened.run.study, opened.run_dir.sweep_file
    if isinstance(sweep.sampler, Listed):
        kind = "grid" if isinstance(sweep.sampler, Grid) else "list"
        raise ConfigError(
            f"study '{study}' has every point of its {kind} queued: submit a sweep of another"
            f" 'study' name with the points that are missing; {file} is this one's"
        )


def _cut_short(opened: OpenRun, asked: Raise) -> Extension | None:
    """The same relative `extend`, if it was killed before its end. Raises StudyError."""
    last = opened.run_dir.extension()
    if last is None or last.done or not asked.more:
        return None
    if last.asked == asked.typed:
        return last
    raise StudyError(
        f"'extend {last.asked}' was cut short on the way to {last.trials} trials: say how much"
        f" there shall be in all, as in {in_flags(last)}"
    )


def _enlarge(opened: OpenRun, trials: int) -> Sweep:
    """The sweep as it would be with this budget: its points are the same as far as they go."""
    overrides = (*opened.run.overrides, f"budget.trials={trials}")
    return config.load(opened.run_dir.sweep_file, overrides)


def retry(
    study: str,
    numbers: Collection[int] | None,
    *,
    most: int,
    workers: int | None,
    note: Callable[[str], None],
) -> Retried:
    """Queues failed trials once more, all that are left to repeat or these; then attaches workers.

    A trial that was repeated already is repeated again only when its last repetition has failed
    too, and `most` times in all. Raises StudyError for a trial that is not there or has not failed.
    """
    opened = open_run(study)
    opened.refuse_strangers()
    with opened.run_dir.locked():
        store = opened.store()
        chosen, left = choose(store.records(), numbers, most)
        queued = set(store.retry(chosen))
        repeats = {r.number: r.root for r in store.records() if r.number in queued}
        attached = _attach(opened, workers, f"{many(len(queued), 'trial')} queued", note)
    return Retried(
        study=opened.run.study,
        run_dir=opened.run_dir.path,
        repeats=repeats,
        left=left,
        workers=opened.sweep().workers or 1,
        attached=attached,
    )


def _attach(
    opened: OpenRun, workers: int | None, done: str, note: Callable[[str], None]
) -> Submitted | None:
    if workers is None:
        return None
    try:
        return add_workers(str(opened.run_dir.path), workers, (), note)
    except HpoctlError as wrong:
        raise type(wrong)(f"{done}, no worker was attached: {wrong}") from wrong


def choose(
    records: Sequence[TrialRecord], numbers: Collection[int] | None, most: int
) -> tuple[list[int], dict[int, str]]:
    """The trials to repeat, each the last of its line, and of those asked for why others are not.

    Without `numbers` it is all that failed, and of those only who was repeated too often is told.
    """
    lines: dict[int, list[TrialRecord]] = {}
    for record in records:
        lines.setdefault(record.root, []).append(record)
    chosen: set[int] = set()
    left: dict[int, str] = {}
    for record in _asked_for(records, numbers):
        line = lines[record.root]
        last, repeated = line[-1], len(line) - 1
        if "attempt" not in record.attrs:
            left[record.number] = "another program than hpoctl ran it"
        elif last.state is not TrialState.FAILED:
            if numbers is not None:
                left[record.number] = f"trial {last.number} repeats it and is {last.state}"
        elif repeated >= most:
            times = f"it failed {repeated + 1} times"
            left[record.root] = f"{times}: --max-retries {repeated + 1} repeats it once more"
        else:
            chosen.add(last.number)
    return sorted(chosen), left


def _asked_for(
    records: Sequence[TrialRecord], numbers: Collection[int] | None
) -> Iterator[TrialRecord]:
    """These trials, or all that failed. Raises StudyError."""
    if numbers is None:
        yield from (record for record in records if record.state is TrialState.FAILED)
        return
    known = {record.number: record for record in records}
    for number in sorted(numbers):
        if number not in known:
            raise StudyError(f"there is no trial {number}: 'hpoctl trials' lists them")
        if known[number].state is not TrialState.FAILED:
            state = known[number].state
            raise StudyError(f"trial {number} is {state}: only failed trials can be repeated")
        yield known[number]
