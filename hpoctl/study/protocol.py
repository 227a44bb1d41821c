"""What a study offers to workers and to the control, whatever it is stored in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from hpoctl.record import Summary, TrialRecord, WorkerRecord
from hpoctl.space import Params

WORKER_KEY = "hpoctl:worker:"
DRAIN_KEY = "hpoctl:drained_at"
ERROR_CHARS = 5_000  # of a traceback's end; as JSON up to 60 kB, and MariaDB's TEXT holds 64 kB


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A trial that one worker has taken: its number and its parameters.

    `task` and `started` tell this claim from a later one of the same trial.
    """

    number: int
    params: Params
    trial_id: int
    task: str | None = None
    started: datetime | None = None


class Store(Protocol):
    """One study, open for reading and writing."""

    def append(self, points: Iterable[Params]) -> None:
        """Queues trials at the end; an empty point is filled by the sampler when claimed."""

    def size(self) -> int:
        """How many trials the study has, in all states."""

    def name_metrics(self) -> None:
        """Tells Optuna and its dashboard what the values are called."""

    def claim(self, attrs: Mapping[str, object]) -> Claim | None:
        """Takes the first waiting trial for this worker, or None where none waits."""

    def report(self, claim: Claim, value: float, step: int) -> bool:
        """Keeps the first metric's value at a step; True if the pruner wants the trial to end."""

    def complete(self, claim: Claim, values: Sequence[float], attrs: Mapping[str, object]) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna."""

    def prune(self, claim: Claim) -> None:
        """Ends a trial early; its last report becomes its value."""

    def fail(self, claim: Claim, error: str) -> None:
        """Ends a trial that raised, with its traceback."""

    def rest(self) -> None:
        """Holds no connection until the next question; called while an objective runs long."""

    def return_lost(
        self, is_gone: Callable[[str], bool], *, cancelled_at: float = 0.0
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; gives their numbers.

        A trial keeps its parameters and its folder. One that was lost before is failed instead, so
        that a trial that kills its worker does not kill every worker; workers that were told to
        leave, or cancelled, do not count.
        """

    def workers(self) -> list[WorkerRecord]:
        """What every worker of this study last said of itself, in the order of their starts."""

    def keep_worker(self, worker: WorkerRecord) -> None:
        """Writes what a worker says of itself over what it said before."""

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


def tasks_told_to_leave(workers: Iterable[WorkerRecord], told_at: float) -> Collection[str]:
    """The tasks of workers that a drain or a cancel at `told_at` reached."""
    return {worker.task for worker in workers if worker.started_at < told_at}


def marks_of_loss(lost: int, task: str, *, told: bool) -> dict[str, object]:
    """What is kept with a trial lost by `task`; with an `error` if that was once too often."""
    marks: dict[str, object] = {"lost": lost + (not told)}
    if lost and not told:
        marks["error"] = f"its worker was gone twice, the last time {task}"
    return marks


def written_off(worker: WorkerRecord) -> WorkerRecord:
    """The record of a worker that is gone, as it could not write it itself."""
    gone = replace(worker, trial=None, failed=True, reason="gone without a word")
    return replace(gone, ended_at=worker.seen_at)


def sorted_workers(values: Iterable[Mapping[str, Any]]) -> list[WorkerRecord]:
    """Workers from the JSON objects that they keep in the study."""
    workers = [WorkerRecord(**value) for value in values]
    return sorted(workers, key=lambda worker: (worker.started_at, worker.task))
