"""Which faults happen when: a pure function of a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What is done to a worker, to its server, or to its disk."""

    KILL_WORKER = "worker killed"
    KILL_CHILD = "trial's process killed"
    STOP_SHORT = "worker stopped for less than its lease"
    STOP_LONG = "worker stopped for longer than its lease"
    CUT = "all connections cut"
    CUT_IN_ANSWER = "connections cut in an answer"
    END_SESSIONS = "sessions ended by the server"
    OUTAGE = "server not reachable"
    CRASH = "server crashed"
    RESTART = "server restarted"
    DISK_FULL = "disk full"


_PROCESSES = {Kind.KILL_WORKER: 30, Kind.KILL_CHILD: 12, Kind.STOP_SHORT: 12, Kind.STOP_LONG: 8}
ON_FILE: Mapping[Kind, int] = {**_PROCESSES, Kind.DISK_FULL: 18}
ON_SERVER: Mapping[Kind, int] = {
    **_PROCESSES,
    Kind.CUT: 14,
    Kind.CUT_IN_ANSWER: 12,
    Kind.END_SESSIONS: 6,
    Kind.OUTAGE: 4,
    Kind.CRASH: 2,
    Kind.RESTART: 2,
}
_LASTS_S = {
    Kind.STOP_SHORT: (0.1, 1.0),
    Kind.STOP_LONG: (2.6, 4.0),
    Kind.OUTAGE: (0.5, 2.0),
    Kind.CRASH: (0.0, 0.5),
    Kind.RESTART: (0.0, 0.5),
    Kind.DISK_FULL: (0.2, 1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault: `delay_s` after the one before, on the worker at `victim`."""

    kind: Kind
    victim: int
    delay_s: float
    lasts_s: float
    at_byte: int  # of the answers, where connections are cut in one
    same_task: bool  # whether a killed worker comes back as the next life of its task


def schedule(
    weights: Mapping[Kind, int], *, seed: int, count: int, workers: int, outage_s: float | None
) -> list[Fault]:
    """`count` faults, each kind by its weight and at least once; the same for the same seed."""
    dice = random.Random(f"{seed}/{count}/{workers}")
    whole = sum(weights.values())
    kinds = [kind for kind, w in weights.items() for _ in range(max(1, count * w // whole))]
    kinds += dice.choices([*weights], [*weights.values()], k=max(0, count - len(kinds)))
    dice.shuffle(kinds)
    found = []
    for kind in kinds[:count]:
        low, high = _LASTS_S.get(kind, (0.0, 0.0))
        if kind is Kind.OUTAGE and outage_s is not None:
            low = high = outage_s
        fault = Fault(
            kind=kind,
            victim=dice.randrange(workers),
            delay_s=dice.uniform(0.01, 0.2),
            lasts_s=dice.uniform(low, high),
            at_byte=dice.randrange(2_000),
            same_task=dice.random() < 0.5,
        )
        found.append(fault)
    return found
