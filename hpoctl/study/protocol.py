"""What a study offers to workers and to the control, whatever it is stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

from hpoctl.errors import StudyError
from hpoctl.record import (
    AttemptRecord,
    Parent,
    Stop,
    Summary,
    TrialRecord,
    TrialState,
    WorkerId,
    WorkerRecord,
)
from hpoctl.record import Outcome as Outcome  # a word of this interface
from hpoctl.space import Params
from hpoctl.words import Cause, Policy

WORKER_KEY = "hpoctl:worker:"
DRAIN_KEY = "hpoctl:drained_at"
STOP_KEY = "hpoctl:stopped"
BAD_NODE_KEY = "hpoctl:bad_node:"
LATE_KEY = "hpoctl:late:"
ERROR_CHARS = 5_000  # of a traceback's end; as JSON up to 60 kB, and MariaDB's TEXT holds 64 kB
_LOSSES = 2  # a trial that was lost so often is failed: it may be what kills its workers

IsGone = Callable[[WorkerId], bool]
NO_CAUSES: Mapping[str, Cause] = MappingProxyType({})
NOTHING: Mapping[str, Any] = MappingProxyType({})
PARENT_KEY = "hpoctl:parent"  # of a trial of a population: the number and the folder of another
CONSTRAINT_KEY = "constraints:"  # Optuna 5: above 0 is violated; every sampler of its own reads it
_INFEASIBLE: Mapping[str, float] = MappingProxyType({"infeasible": 1.0})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A trial that one worker has taken: its number and its parameters.

    `attempt` counts the claims of a trial from 1 and tells this one from every other. `root` is the
    number of the trial that this one repeats, else its own: they share seed and folder. In a
    population it may have a `parent`, which it goes on from.
    """

    number: int
    params: Params
    trial_id: int
    attempt: int
    root: int
    parent: Parent | None = None


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

    def has_waiting(self) -> bool:
        """Whether any trial waits."""

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
        """Takes the first waiting trial for this worker, or None where none waits.

        In a population one also waits whose member is still in the trial before it; so None may
        mean that others come first.
        """

    def report(self, claim: Claim, value: float, step: int, *, patience_s: float = ...) -> bool:
        """Keeps the first metric's value at a step; True if the trial shall end.

        It shall if the pruner says so, and if it is no longer this claim's. Raises Unreachable
        after `patience_s`, some seconds: the report may be made again later, by another worker too.
        """

    def complete(
        self,
        claim: Claim,
        values: Sequence[float],
        attrs: Mapping[str, object],
        *,
        at: float | None = None,
        constraints: Mapping[str, float] = ...,
    ) -> None:
        """Ends a trial with its values; a NaN among them makes it a failed one, as in Optuna.

        `constraints` says by how much each of them is violated: above 0, and it is infeasible. It
        ended `at` this moment, or now. A trial that was given to another worker meanwhile is left
        as it is, and the values are kept beside it. The same call again, with the same `at`,
        changes nothing. So it is with `prune` and `fail`.
        """

    def prune(self, claim: Claim, *, at: float | None = None) -> None:
        """Ends a trial early; its last report becomes its value."""

    def fail(
        self,
        claim: Claim,
        error: str,
        *,
        at: float | None = None,
        cause: Cause = Cause.ERROR,
        policy: Policy = Policy.FAIL,
        attrs: Mapping[str, object] = ...,
        constraints: Mapping[str, float] = ...,
    ) -> None:
        """Ends an attempt that came to nothing; the policy says what becomes of the trial.

        The cause and the error, such as a traceback, are kept with the attempt in any case; `attrs`
        with a trial that ends, `constraints` with one that ends as infeasible.
        """

    def give_back(self, claim: Claim, *, at: float | None = None) -> None:
        """Lets a trial wait again that saved itself: any worker goes on with it, in its folder."""

    def rest(self) -> None:
        """Holds no connection until the next question; called while an objective runs long."""

    @property
    def past(self) -> Past:
        """What became of the study's attempts, and what follows from that."""

    def return_lost(
        self,
        is_gone: IsGone,
        *,
        cancelled_at: float = 0.0,
        causes: Mapping[str, Cause] = NO_CAUSES,
    ) -> list[int]:
        """Queues again the running trials of workers that are gone; gives their numbers.

        A life that has a successor is gone in any case. A trial keeps its parameters, its seed and
        its folder. One that was lost too often is failed instead, so that a trial that kills its
        worker does not kill every worker; workers that were told to leave, or cancelled, do not
        count. `causes` says of a task what the batch system knows of its end; the sweep's policy
        for that cause decides.
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


class Past(Protocol):
    """What became of a study's attempts so far, and what all workers conclude from it."""

    def ended(self, *, last: int | None = None) -> list[AttemptRecord]:
        """The attempts that ended, or so many that ended last; the oldest first."""

    def durations(self, last: int) -> list[float]:
        """How many seconds trials took from claim to end: those of the last complete ones."""

    def stop(self, stop: Stop) -> None:
        """Asks every worker that was submitted before to leave, and says why."""

    def stopped(self) -> Stop | None:
        """The last time that the study stopped itself."""

    def avoid(self, node: str, why: str) -> None:
        """Excludes a node for this study."""

    def trust(self, node: str) -> None:
        """Takes that back."""

    def bad_nodes(self) -> Mapping[str, str]:
        """The nodes that are excluded, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a trial whose attempt came to nothing: how that ended, the trial's error.

    Without an error it waits again. `cause` and `said` stay with the attempt, `attrs` with a trial
    that ends, and `constraints` with one that is infeasible.
    """

    outcome: Outcome
    error: str | None
    cause: Cause | None = None
    said: str = ""
    attrs: Mapping[str, object] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> Mapping[str, object]:
        """The attributes of a trial that ends."""
        return {} if self.error is None else {**self.attrs, "error": self.error}


def judge(
    cause: Cause, said: str, policy: Policy, losses: int, ended: Outcome = Outcome.FAILED
) -> Verdict:
    """The verdict on a trial that was lost `losses` times before; `ended` where that is its end.

    An infeasible one violates a constraint, if none is known then that of being feasible.
    """
    said = said[-ERROR_CHARS:]
    if policy is Policy.REQUEUE:
        return Verdict(outcome=Outcome.RETURNED, error=None, cause=cause, said=said)
    if policy is Policy.INFEASIBLE:
        return Verdict(
            outcome=Outcome.PRUNED, error=said, cause=cause, said=said, constraints=_INFEASIBLE
        )
    if policy is Policy.RETRY and losses + 1 < _LOSSES:
        return Verdict(outcome=Outcome.LOST, error=None, cause=cause, said=said)
    return Verdict(outcome=ended, error=said, cause=cause, said=said)


def with_what_is_known(
    verdict: Verdict, attrs: Mapping[str, object], constraints: Mapping[str, float]
) -> Verdict:
    """The verdict with what is known of the trial besides."""
    if verdict.outcome is not Outcome.PRUNED:
        return replace(verdict, attrs=attrs)
    return replace(verdict, attrs=attrs, constraints=constraints or verdict.constraints)


def judge_loss(
    worker: WorkerId, losses: int, *, told: bool, cause: Cause, policy: Policy
) -> Verdict:
    """The verdict on a trial whose worker is gone; `told` if that was drained or cancelled."""
    if told:
        return Verdict(outcome=Outcome.RETURNED, error=None)
    said = f"its worker was gone {losses + 1} times, the last time {worker.task}"
    return judge(cause, said, policy, losses, Outcome.LOST)


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
