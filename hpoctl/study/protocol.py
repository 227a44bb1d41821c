"""What a study offers to workers and to the control, whatever it is stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerId, WorkerRecord
from hpoctl.space import Params

WORKER_KEY = "hpoctl:worker:"
DRAIN_KEY = "hpoctl:drained_at"
LATE_KEY = "hpoctl:late:"
ERROR_CHARS = 5_000  # of a traceback's end; as JSON up to 60 kB, and MariaDB's TEXT holds 64 kB
_LOSSES = 2  # a trial that was lost so often is failed: it may be what kills its workers

IsGone = Callable[[WorkerId], bool]


class Outcome(StrEnum):
    """How an attempt at a trial ended. LOST: its worker died. RETURNED: its worker had to leave."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    LOST = "lost"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A trial that one worker has taken: its number and its parameters.

    `attempt` counts the claims of a trial from 1 and tells this one from every other. `root` is the
    number of the trial that this one repeats, else its own: they share seed and folder.
    """

    number: int
    params: Params
    trial_id: int
    attempt: int
    root: int


class Store(Protocol):
    """One study, open for reading and writing."""

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""

    def fill(self, whole: Sequence[Params]) -> list[int]:
        """Queues what is missing of a whole queue at its end; gives the numbers of those.

        How much is missing is counted without retries, and in a database under a lock: two at once
        queue no point twice.
        """

    def retry(self, numbers: Collection[int]) -> list[int]:
        """Queues failed trials once more, as new ones; gives the numbers of those.

        A trial that another one repeats already is left out.
        """

    def size(self) -> int:
        """How many trials the study has, in all states."""

    def retries(self) -> int:
        """How many of them repeat another one, and so are not of the budget."""

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""

    def sign_on(self, worker: WorkerRecord) -> WorkerRecord:
        """The worker's first word to the study, which says which life of its task this is."""

    def check_in(self, worker: WorkerRecord, *, patience_s: float = ...) -> float:
        """Writes what a worker says of itself; when workers were last asked to leave, or 0.0.

        Raises Unreachable where an outage lasts for longer than `patience_s`.
        """

    def claim(self, worker: WorkerRecord) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the trial shall end.

        It shall if the pruner says so, and if it is no longer this claim's. Raises Unreachable
        after some seconds: the report may be made again later.
        """

    def complete(
        self,
        claim: Claim,
        values: Sequence[float],
        attrs: Mapping[str, object],
        *,
        at: float | None = None,
    ) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna.

        It ended `at` this moment, or now. A trial that was given to another worker meanwhile is
        left as it is, and the values are kept beside it. The same call again, with the same `at`,
        changes nothing. So it is with `prune` and `fail`.
        """

    def prune(self, claim: Claim, *, at: float | None = None) -> None:
        """Ends a trial early; its last report becomes its value."""

    def fail(self, claim: Claim, error: str, *, at: float | None = None) -> None:
        """Ends a trial that raised, with its traceback."""

    def rest(self) -> None:
        """Holds no connection until the next question; called while an objective runs long."""

    def return_lost(self, is_gone: IsGone, *, cancelled_at: float = 0.0) -> list[int]:
        """Queues again the running trials of workers that are gone; gives their numbers.

        A life that has a successor is gone in any case. A trial keeps its parameters, its seed and
        its folder. One that was lost before is failed instead, so that a trial that kills its
        worker does not kill every worker; workers that were told to leave, or cancelled, do not
        count.
        """

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""

    def drain(self, at: float) -> None:
        """Asks every worker that started before `at` to finish its trial and leave."""

    def drained_at(self) -> float:
        """When workers were last asked to leave; 0.0 if never."""

    def gpu_hours(self, now: float) -> float:
        """GPU-hours of all workers of this study up to `now`, running ones included."""

    def summary(self) -> Summary:
        """The study at a glance, by Optuna's own answers; slower than `study.summary`."""

    def records(self) -> list[TrialRecord]:
        """Every trial, by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a trial whose worker is gone: how the attempt ended, and the trial's error.

    Without an error it waits again.
    """

    outcome: Outcome
    error: str | None


def judge_loss(worker: WorkerId, losses: int, *, told: bool) -> Verdict:
    """The verdict on a trial, lost `losses` times before; `told` if its worker had to go."""
    if told:
        return Verdict(outcome=Outcome.RETURNED, error=None)
    if losses + 1 < _LOSSES:
        return Verdict(outcome=Outcome.LOST, error=None)
    error = f"its worker was gone {losses + 1} times, the last time {worker.task}"
    return Verdict(outcome=Outcome.LOST, error=error)


def retriable(records: Mapping[int, TrialRecord], numbers: Collection[int]) -> list[int]:
    """The trials to repeat, in order, none twice. Raises StudyError for one that has not failed."""
    for number in sorted(numbers):
        if number not in records:
            raise StudyError(f"there is no trial {number}: 'hpoctl trials' lists them")
        if records[number].state is not TrialState.FAILED:
            state = records[number].state
            raise StudyError(f"trial {number} is {state}: only failed trials can be repeated")
    return sorted(set(numbers))


def tasks_told_to_leave(workers: Iterable[WorkerRecord], told_at: float) -> Collection[WorkerId]:
    """The workers that a drain or a cancel at `told_at` reached."""
    return {worker.id for worker in workers if worker.started_at < told_at}


def or_succeeded(is_gone: IsGone, workers: Iterable[WorkerRecord]) -> IsGone:
    """The same answer, and True for a life that another one of its task came after."""
    latest: Counter[str] = Counter()
    for worker in workers:
        latest[worker.task] = max(latest[worker.task], worker.life)
    return lambda worker: worker.life < latest[worker.task] or is_gone(worker)


def written_off(worker: WorkerRecord) -> WorkerRecord:
    """The record of a worker that is gone, as it could not write it itself."""
    gone = replace(worker, trial=None, failed=True, reason="gone without a word")
    return replace(gone, ended_at=worker.seen_at)


def sorted_workers(values: Iterable[Mapping[str, Any]]) -> list[WorkerRecord]:
    """Workers from the JSON objects that they keep in the study."""
    workers = [WorkerRecord(**value) for value in values]
    return sorted(workers, key=lambda worker: (worker.started_at, worker.task, worker.life))
