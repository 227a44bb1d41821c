"""Puts right what workers could not: results that nobody delivered, trials whose worker is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpoctl.control.opened import OpenRun, open_run
from hpoctl.record import Fate, TrialState, WorkerId, WorkerRecord

if TYPE_CHECKING:
    from hpoctl.study.store import Store

_BETWEEN_LOOKS_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was done: trials whose result was delivered, trials that wait again.

    `unheard` are trials whose workers the batch system gave no word of: they were left alone.
    """

    delivered: tuple[int, ...] = ()
    returned: tuple[int, ...] = ()
    unheard: tuple[int, ...] = ()


def repair(study: str, note: Callable[[str], None]) -> Repaired:
    """Delivers what lies in the spool and queues lost trials again; `note` is told of a wait."""
    opened = open_run(study)
    opened.refuse_strangers()
    return repair_run(opened, note)


def repair_run(opened: OpenRun, note: Callable[[str], None]) -> Repaired:
    """The same for a run that was found."""
    summary = opened.summary()
    alive = [worker for worker in summary.workers if worker.ended_at is None]
    idle = not summary.counts[TrialState.RUNNING] and not alive
    if idle and not opened.run_dir.undelivered():
        return Repaired()
    from hpoctl import lost, spool  # which load Optuna

    store = opened.store()
    delivered = spool.deliver(opened.run_dir, store)
    lease_s = opened.sweep().lease.total_seconds()
    observer = lost.observe(opened.run.backend, opened.run_dir, lease_s)
    workers = lost.still_there(store.workers())
    fates: Mapping[WorkerId, Fate] = {}
    for look in range(2 if workers else 0):
        time.sleep(look * _BETWEEN_LOOKS_S)
        fates = observer.ask(workers)
    gone = {id_ for id_, fate in fates.items() if fate is Fate.GONE}
    returned = _give_back(opened, store, gone)
    suspects = [worker for worker in workers if _may_be_gone(worker, fates, lease_s)]
    if suspects:
        returned += _give_back(opened, store, _silent(store, suspects, lease_s, note))
    return Repaired(
        delivered=tuple(delivered),
        returned=tuple(sorted(returned)),
        unheard=_trials(worker for worker in workers if fates[worker.id] is Fate.UNKNOWN),
    )


def _give_back(opened: OpenRun, store: Store, gone: Collection[WorkerId]) -> list[int]:
    if not gone:
        return []
    from hpoctl import lost

    those = [worker for worker in store.workers() if worker.id in gone]
    return store.return_lost(
        lambda worker: worker in gone,
        cancelled_at=opened.run_dir.cancelled_at(),
        causes=lost.causes(opened.run.backend, opened.run_dir, those),
    )


def _may_be_gone(worker: WorkerRecord, fates: Mapping[WorkerId, Fate], lease_s: float) -> bool:
    """Whether it is worth a lease's wait: its sign of life is old, if the clocks agree."""
    if worker.trial is None:
        return False
    match fates[worker.id]:
        case Fate.FORGOTTEN:
            return True
        case Fate.RUNNING:
            return time.time() - worker.seen_at > lease_s
        case _:
            return False


def _silent(
    store: Store, suspects: Sequence[WorkerRecord], lease_s: float, note: Callable[[str], None]
) -> Collection[WorkerId]:
    """Those of the suspects that give no sign of life while we look, for most of a lease."""
    from hpoctl.lease import Watch

    names = {worker.id for worker in suspects}
    watch = Watch(lease_s)
    trials = ", ".join(map(str, _trials(suspects)))
    note(f"trial {trials}: waiting {lease_s - watch.beat_s:.0f} s for a sign of its worker's life")
    while names:
        now = time.monotonic()
        seen = {worker.id: worker for worker in store.workers()}
        store.rest()
        silent = watch.look([seen[name] for name in names if name in seen], now)
        if silent:
            return silent
        # Whoever was written off meanwhile keeps its last sign, and the watch passes it over.
        names = {
            w.id
            for w in suspects
            if (now_is := seen.get(w.id)) is not None
            and (now_is.ended_at, now_is.seen_at) == (None, w.seen_at)
        }
        time.sleep(watch.beat_s if names else 0)
    return ()


def _trials(workers: Iterable[WorkerRecord]) -> tuple[int, ...]:
    return tuple(sorted(worker.trial for worker in workers if worker.trial is not None))
