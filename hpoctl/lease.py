"""Who has been silent for too long, in the eyes of one observer. Pure: knows no clock, no study.

A worker's record changes with every sign of life. One that has not changed for a lease, while the
observer looked all along, belongs to a worker that is gone. No clock of another machine is
compared, so none has to be right; and after an outage, in which nobody could give a sign, every
worker has a whole lease again. (The idea: a lease by record version, as in Amazon's DynamoDB lock
client.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from hpoctl.record import WorkerId, WorkerRecord

_SIGNS = 4  # of life in a lease


@dataclass(slots=True)
class Watch:
    """What one observer saw of the workers of a study. Seconds are of its own monotonic clock."""

    lease_s: float
    _seen: dict[WorkerId, tuple[float, float]] = field(default_factory=dict)
    _looked_at: float | None = None

    @property
    def beat_s(self) -> float:
        """Seconds between two signs of life, and between two looks."""
        return self.lease_s / _SIGNS

    def look(self, workers: Iterable[WorkerRecord], now: float) -> frozenset[WorkerId]:
        """The workers without a sign of life for three quarters of a lease.

        So that a worker is found within a lease and the time between two looks.
        """
        if self._looked_at is None or now - self._looked_at > 2 * self.beat_s:
            self._seen.clear()  # we were away ourselves
        self._looked_at = now
        before, self._seen = self._seen, {}
        for worker in workers:
            if worker.ended_at is None:
                sign, since = before.get(worker.id, (worker.seen_at, now))
                self._seen[worker.id] = worker.seen_at, since if sign == worker.seen_at else now
        patience_s = self.lease_s - self.beat_s
        return frozenset(id_ for id_, (_, since) in self._seen.items() if now - since >= patience_s)

    def silences(self, now: float) -> Mapping[WorkerId, float]:
        """Seconds since each worker's last new sign of life, of those that the last look was at."""
        return {id_: now - since for id_, (_, since) in self._seen.items()}
