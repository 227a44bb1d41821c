"""GPU-hours: what each life of a worker was allocated, and what it did with it. Pure.

Of when a life began and ended, accounting has the last word, then squeue, then the worker itself,
which does not know of the seconds before and after its process. What it did only the worker knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from hpoctl.record import Charge, TaskRecord, WorkerRecord

Until = Callable[[WorkerRecord], float]
_SKEW_S = 5.0  # between the clocks of slurmctld and of a node, and from a start to our first word
_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One allocation: a task from a start to its end, or to now. Seconds are of the clock.

    `known_from` says who told its length: `sacct`, `squeue` or `worker`.
    """

    task: str
    node: str | None
    gpus: int
    started_at: float
    allocated_s: float
    startup_s: float
    training_s: float
    trials: int
    reason: str | None
    known_from: str

    @property
    def idle_s(self) -> float:
        """What is neither startup nor training."""
        return self.allocated_s - self.startup_s - self.training_s


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHours:
    """GPU-hours of all workers: allocated; of these training, starting up, idle.

    `charged` is what accounting knows of them, None where it was not asked.
    """

    allocated: float
    training: float
    startup: float
    idle: float = 0.0
    charged: float | None = None

    @property
    def disputed(self) -> bool:
        """Whether accounting knows of more or less, by more than a hundredth."""
        return self.charged is not None and abs(self.charged - self.allocated) > (
            0.01 * max(self.charged, self.allocated)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Life:
    """What workers say of one allocation; worker.sh may start several there, one after another."""

    workers: tuple[WorkerRecord, ...]

    @property
    def begun(self) -> float:
        return self.workers[0].allocated_at or self.workers[0].started_at

    def line(self, until: Until, span: _Span | None) -> Line:
        """With the length that Slurm knows, where it does."""
        last = self.workers[-1]
        own_s = max(0.0, _in_accounting(last, until(last)) - self.begun)
        own = _Span(last.task, self.begun, own_s, last.gpus, "worker")
        known = span or own
        startup_s = sum((w.ready_at or until(w)) - w.started_at for w in self.workers)
        startup_s += self.workers[0].started_at - known.begun
        training_s = sum(_training_s(w, until(w)) for w in self.workers)
        # A task that is cut off is charged up to then, though its worker may live on for KillWait.
        startup_s = min(max(0.0, startup_s), known.seconds)
        training_s = min(training_s, known.seconds - startup_s)
        return Line(
            task=last.task,
            node=last.node,
            gpus=last.gpus if known.gpus is None else known.gpus,
            started_at=known.begun,
            allocated_s=known.seconds,
            startup_s=startup_s,
            training_s=training_s,
            trials=sum(worker.trials for worker in self.workers),
            reason=last.reason,
            known_from=known.known_from,
        )


@dataclass(frozen=True, slots=True)
class _Span:
    """An allocation as somebody knows it."""

    task: str
    begun: float
    seconds: float
    gpus: int | None
    known_from: str


def ledger(
    workers: Iterable[WorkerRecord],
    until: Until,
    *,
    tasks: Sequence[TaskRecord] = (),
    charges: Sequence[Charge] = (),
    now: float = 0.0,
) -> tuple[Line, ...]:
    """Every allocation by its start; `until` says how far a worker without an end is counted."""
    lives, settled = _lives(workers), _settled(charges)
    spans = _spans(tasks, charges, settled, now)
    of = _matched(lives, spans, until)
    lines = [life.line(until, of.get(life) or _uncharged(life, settled)) for life in lives]
    lines += [_unsigned(span, lives) for span in spans if span not in of.values()]
    return tuple(sorted(lines, key=lambda line: (line.started_at, line.task)))


def _matched(lives: Sequence[_Life], spans: Sequence[_Span], until: Until) -> dict[_Life, _Span]:
    """Each life's allocation, the nearest starts first."""
    pairs = sorted(
        (abs(life.begun - span.begun), number, place)
        for number, life in enumerate(lives)
        for place, span in enumerate(spans)
        if _fits(life, until(life.workers[-1]), span)
    )
    found: dict[int, int] = {}
    for _, number, place in pairs:
        if number not in found and place not in found.values():
            found[number] = place
    return {lives[number]: spans[place] for number, place in found.items()}


def total(lines: Iterable[Line], charges: Sequence[Charge] | None = None) -> GpuHours:
    """The sums over a ledger, beside what accounting charges."""
    known = list(lines)
    gpus = {line.task: line.gpus for line in known}
    charged = None
    if charges is not None:
        each = (gpus.get(c.task, 0) if c.gpus is None else c.gpus for c in charges)
        charged = sum(n * c.elapsed_s for n, c in zip(each, charges, strict=True)) / _PER_HOUR
    return GpuHours(
        allocated=sum(line.gpus * line.allocated_s for line in known) / _PER_HOUR,
        training=sum(line.gpus * line.training_s for line in known) / _PER_HOUR,
        startup=sum(line.gpus * line.startup_s for line in known) / _PER_HOUR,
        idle=sum(line.gpus * line.idle_s for line in known) / _PER_HOUR,
        charged=charged,
    )


def spent(workers: Iterable[WorkerRecord], now: float, grace_s: float) -> float:
    """GPU-hours by the workers' own word; one that is silent counts for `grace_s` longer."""

    def until(worker: WorkerRecord) -> float:
        return worker.ended_at or max(worker.seen_at, min(now, worker.seen_at + grace_s))

    return total(ledger(workers, until)).allocated


def _lives(workers: Iterable[WorkerRecord]) -> list[_Life]:
    """Each allocation's workers.

    A slurmctld that was killed may start a task once more without a further restart: what tells the
    two apart is when their shells began.
    """

    def key(worker: WorkerRecord) -> tuple[str, int, float]:
        return worker.task, worker.restarts, worker.allocated_at or 0.0

    ordered = sorted(workers, key=lambda worker: (*key(worker), worker.life))
    return [_Life(workers=tuple(lives)) for _, lives in groupby(ordered, key)]


def _settled(charges: Sequence[Charge]) -> Mapping[str, float]:
    """Until when accounting has said everything of a task: a task has one allocation at a time."""
    settled: dict[str, float] = {}
    for charge in charges:
        if charge.ended_at is not None:
            settled[charge.task] = max(charge.ended_at, settled.get(charge.task, 0.0))
    return settled


def _uncharged(life: _Life, settled: Mapping[str, float]) -> _Span | None:
    """Nothing, of a life that accounting does not know though it knows of what came later.

    A slurmctld that was killed forgets that it started a task; what runs of it is charged to
    nobody until it is found and killed.
    """
    last = life.workers[-1]
    if life.begun >= settled.get(last.task, 0.0) - _SKEW_S:
        return None
    return _Span(last.task, life.begun, 0.0, last.gpus, "sacct")


def _in_accounting(worker: WorkerRecord, until: float) -> float:
    """Until when a worker counts, by its own word.

    A scancel, a requeue, a preemption and the end of the walltime end a task in Slurm's books when
    its SIGTERM is sent. What the worker finishes within KillWait is not charged. A GraceTime before
    a preemption is, and a batch script gets its SIGTERM after that: the one before is for steps.
    """
    return min(until, worker.told_at) if worker.told == "SIGTERM" and worker.told_at else until


def _training_s(worker: WorkerRecord, until: float) -> float:
    running_s = max(0.0, until - worker.trial_at) if worker.trial_at is not None else 0.0
    return worker.training_s + running_s


def _spans(
    tasks: Sequence[TaskRecord],
    charges: Sequence[Charge],
    settled: Mapping[str, float],
    now: float,
) -> list[_Span]:
    """What Slurm knows, each allocation once; accounting is late, so only its ends count.

    squeue is believed of what accounting has not settled. Where both know an allocation they may
    have other starts: a slurmctld that was killed starts it anew in its books.
    """
    spans = [
        _Span(c.task, c.started_at, c.elapsed_s, c.gpus, "sacct")
        for c in charges
        if c.ended_at is not None
    ]
    begun_at = {(span.task, span.begun) for span in spans}
    for task in tasks:
        begun = task.started_at
        if begun is None or begun < settled.get(task.task, 0.0) or (task.task, begun) in begun_at:
            continue
        seconds = max(0.0, (task.ended_at or now) - begun)
        spans.append(_Span(task.task, begun, seconds, task.gpus, "squeue"))
    return sorted(spans, key=lambda span: span.begun)


def _fits(life: _Life, ended: float, span: _Span) -> bool:
    """Whether the life began in this allocation.

    Or before: a slurmctld that was killed forgets when it started a task, and starts it anew in its
    books, seconds later, while the worker runs on.
    """
    if life.workers[0].task != span.task:
        return False
    end = span.begun + span.seconds + _SKEW_S
    return span.begun - _SKEW_S <= life.begun <= end or life.begun < span.begun < ended + _SKEW_S


def _unsigned(span: _Span, lives: Sequence[_Life]) -> Line:
    """An allocation that no worker signed on from: `setup` failed, or it is not ready yet."""
    peers = max((life.workers[0].gpus for life in lives), default=0)  # all of a sweep have as many
    gpus = peers if span.gpus is None else span.gpus
    return Line(
        task=span.task,
        node=None,
        gpus=gpus,
        started_at=span.begun,
        allocated_s=span.seconds,
        startup_s=span.seconds,
        training_s=0.0,
        trials=0,
        reason="no worker signed on",
        known_from=span.known_from,
    )
