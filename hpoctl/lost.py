"""Which workers are gone: by the batch system's word, and where it has none, by their silence.

Both the worker and the login node ask here. Slurm is asked only about workers that are silent, and
believed when it has said so twice. It knows more than a lease can: a suspended worker is silent and
keeps its trial; one whose task was queued again is gone, though its task runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hpoctl.backends import local, slurm
from hpoctl.lease import Watch
from hpoctl.record import Fate, WorkerId, WorkerRecord
from hpoctl.rundir import RunDir
from hpoctl.words import BackendName, Cause

_FRESH_S = 10.0  # so old an answer may be that another worker of the run was given
_BEAT_PATIENCE_S = 5.0  # a worker's trial waits for the answers to its reports meanwhile
_PATIENCE_S = 20.0
_DEAF = 4  # leases without a word from the batch system, after which silence decides alone


class Fates(Protocol):
    """What a module of `backends/` knows of workers, and when it said so."""

    def __call__(
        self,
        workers: Sequence[WorkerRecord],
        run_dir: RunDir,
        *,
        newer_than: float,
        patience_s: float,
    ) -> tuple[float, Mapping[WorkerId, Fate]]: ...


FATES: Mapping[BackendName, Fates] = {
    BackendName.SLURM: slurm.fates,
    BackendName.LOCAL: local.fates,
}


@dataclass(slots=True, kw_only=True)
class Observer:
    """One observer of the workers of a run, over any number of looks."""

    run_dir: RunDir
    fates: Fates
    lease_s: float
    watch: Watch = field(init=False)
    _gone_at: dict[WorkerId, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.lease_s)

    @property
    def beat_s(self) -> float:
        """Seconds between two looks."""
        return self.watch.beat_s

    def look(self, workers: Sequence[WorkerRecord], now: float) -> frozenset[WorkerId]:
        """Those of these workers that are gone, at a moment of a monotonic clock.

        Slurm is asked when one has missed two signs of life, and so a second time before its
        lease is over.
        """
        silent = self.watch.look(workers, now)
        silences = self.watch.silences(now)
        quiet = [w for w in workers if silences.get(w.id, 0.0) >= self.lease_s / 2]
        if not quiet:
            self._gone_at.clear()
            return frozenset()
        since = time.time() - min(_FRESH_S, self.beat_s / 2)
        said_at, fates = self.fates(
            quiet, self.run_dir, newer_than=since, patience_s=_BEAT_PATIENCE_S
        )
        gone = self.twice_gone(said_at, fates)
        return gone | {
            id_
            for id_, fate in fates.items()
            if (id_ in silent and fate in (Fate.RUNNING, Fate.FORGOTTEN))
            or (fate is Fate.UNKNOWN and silences[id_] >= _DEAF * self.lease_s)
        }

    def ask(self, workers: Sequence[WorkerRecord]) -> Mapping[WorkerId, Fate]:
        """A look at all of them at once, without a lease: who was gone before too is GONE.

        Who is so for the first time is UNKNOWN.
        """
        said_at, fates = self.fates(
            workers, self.run_dir, newer_than=time.time(), patience_s=_PATIENCE_S
        )
        gone = self.twice_gone(said_at, fates)
        return {
            id_: Fate.UNKNOWN if fate is Fate.GONE and id_ not in gone else fate
            for id_, fate in fates.items()
        }

    def twice_gone(self, said_at: float, fates: Mapping[WorkerId, Fate]) -> frozenset[WorkerId]:
        """Who was gone in an earlier answer too."""
        before, self._gone_at = self._gone_at, {}
        for id_, fate in fates.items():
            if fate is Fate.GONE:
                self._gone_at[id_] = before.get(id_, said_at)
        return frozenset(id_ for id_, at in self._gone_at.items() if at < said_at)


def observe(backend: BackendName, run_dir: RunDir, lease_s: float) -> Observer:
    """An observer of a run on one of our batch systems."""
    return Observer(run_dir=run_dir, fates=FATES[backend], lease_s=lease_s)


def causes(
    backend: BackendName, run_dir: RunDir, workers: Sequence[WorkerRecord]
) -> Mapping[str, Cause]:
    """Why the tasks of workers that are gone ended, as far as the batch system says."""
    return slurm.causes(workers, run_dir) if backend is BackendName.SLURM else {}


def why_told(backend: BackendName, run_dir: RunDir, worker: WorkerRecord) -> Cause:
    """Why this worker was told to go by SIGTERM; that it was preempted, where nobody says why."""
    known = slurm.why_taken(worker, run_dir) if backend is BackendName.SLURM else None
    return known or Cause.PREEMPTED


def still_there(workers: Iterable[WorkerRecord]) -> Sequence[WorkerRecord]:
    """Those that have not said goodbye."""
    return [worker for worker in workers if worker.ended_at is None]
