"""Failures in classes: what an error is, which ones are the same, and what follows. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpoctl.record import AttemptRecord
from hpoctl.trial import Infeasible
from hpoctl.words import Cause

_GPU_IS_FULL = re.compile(
    r"CUDA out of memory|CUDA_ERROR_OUT_OF_MEMORY|RESOURCE_EXHAUSTED: Out of memory"
)
_NUMBERS = re.compile(r"0x[0-9a-fA-F]+|\d+(?:[.,]\d+)*")
CUT_SHORT = (Cause.TIMEOUT, Cause.PREEMPTED, Cause.REQUEUED, Cause.CANCELLED)
"""The allocation ended, and its node is well."""

OF_THE_CLUSTER = (*CUT_SHORT, Cause.NODE_FAIL, Cause.LOST)
"""What the trial itself has no part in."""

LOOK_BACK = 30  # attempts: a success among these, and a sweep goes on; as many may be infeasible
_NOT_OF_A_NODE = (None, *CUT_SHORT, Cause.INFEASIBLE)
_IN_A_ROW = 3  # failures that no other node has shown, and a node is avoided


class TrialFailed(RuntimeError):
    """A trial's failure whose cause is known to whoever raises it."""

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message)
        self.cause = cause

    def __reduce__(self) -> tuple[object, ...]:
        """As an exception of two arguments: one process tells another by a pickle."""
        return type(self), (str(self), self.cause), self.__dict__


def classify(raised: BaseException) -> Cause:
    """The class of what an objective raised; frameworks wrap it, so the whole chain is looked at.

    torch's exceptions are known by their name: torch is not loaded for that.
    """
    for link in _chain(raised):
        if isinstance(link, TrialFailed):
            return link.cause
        if isinstance(link, Infeasible):
            return Cause.INFEASIBLE
        names = {kind.__name__ for kind in type(link).__mro__}
        if "OutOfMemoryError" in names or _GPU_IS_FULL.search(str(link)):
            return Cause.CUDA_OOM
        if isinstance(link, MemoryError):
            return Cause.HOST_OOM
        if isinstance(link, ImportError):
            return Cause.IMPORT
    return Cause.ERROR


def _chain(raised: BaseException | None) -> Iterator[BaseException]:
    seen = set[int]()
    while raised is not None and id(raised) not in seen:
        seen.add(id(raised))
        yield raised
        raised = raised.__cause__ or (None if raised.__suppress_context__ else raised.__context__)


def classify_text(text: str) -> Cause:
    """The class of a program's failure by the end of what it printed."""
    if _GPU_IS_FULL.search(text):
        return Cause.CUDA_OOM
    if re.search(r"^MemoryError\b", text, re.MULTILINE):
        return Cause.HOST_OOM
    if re.search(r"^(?:ModuleNotFound|Import)Error: ", text, re.MULTILINE):
        return Cause.IMPORT
    return Cause.ERROR


def last_line(error: str) -> str:
    """What an error says, without its traceback."""
    lines = [line for line in error.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def signature(attempt: AttemptRecord) -> tuple[Cause | None, str]:
    """What failures have in common that are the same: class, and last line but for its numbers."""
    return attempt.cause, _NUMBERS.sub("#", last_line(attempt.error))


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failures that are the same: how often, of which trials, on which nodes, and the first."""

    cause: Cause
    said: str
    count: int
    trials: tuple[int, ...]
    nodes: Mapping[str, int]
    first: AttemptRecord


def group(attempts: Iterable[AttemptRecord]) -> tuple[FailureGroup, ...]:
    """The failures among ended attempts, those that are the same together, most frequent first."""
    found: dict[tuple[Cause | None, str], list[AttemptRecord]] = {}
    for attempt in attempts:
        if attempt.cause is not None:
            found.setdefault(signature(attempt), []).append(attempt)
    groups = [_group(same) for same in found.values()]
    return tuple(sorted(groups, key=lambda group: (-group.count, group.first.ended_at)))


def _group(same: Sequence[AttemptRecord]) -> FailureGroup:
    first = min(same, key=lambda attempt: attempt.ended_at)
    assert first.cause is not None, "only failures are grouped"
    nodes = [attempt.node for attempt in same]
    return FailureGroup(
        cause=first.cause,
        said=last_line(first.error),
        count=len(same),
        trials=tuple(sorted({attempt.number for attempt in same})),
        nodes={node: nodes.count(node) for node in sorted(set(nodes))},
        first=first,
    )


def why_stop(attempts: Sequence[AttemptRecord], stop_after: int, *, since: float) -> str | None:
    """Why a sweep should stop itself: its last attempts, oldest first, all died the same way.

    That is so only where nothing succeeded among all that are given, so that a corner of the space
    that kills its trials ends no sweep. What began before `since` does not count. Infeasible trials
    say something of the space and nothing of the sweep: only where there is nothing else among so
    many that a sampler should have found another place, they end it.
    """
    mine = [a for a in attempts if a.started_at > since and a.cause not in OF_THE_CLUSTER]
    if not stop_after or any(attempt.succeeded for attempt in mine):
        return None
    infeasible = [attempt for attempt in mine if attempt.cause is Cause.INFEASIBLE]
    if len(infeasible) >= max(stop_after, LOOK_BACK):
        said = _short(infeasible[-1])
        return f"{len(infeasible)} trials in a row were infeasible, the last one by: {said}"
    failed = [a for a in mine if a.cause not in (None, Cause.INFEASIBLE)][-stop_after:]
    if len(failed) < stop_after or len({signature(attempt) for attempt in failed}) > 1:
        return None
    return f"{stop_after} trials in a row failed alike: {failed[-1].cause}: {_short(failed[-1])}"


def why_avoid(
    node: str, attempts: Sequence[AttemptRecord], avoided: Collection[str] = ()
) -> str | None:
    """Why a node should be avoided: its last attempts failed as none did on any other node.

    And a node that is not `avoided` already has had successes meanwhile: a sweep must have
    somewhere else to go.
    """
    here = [attempt for attempt in attempts if attempt.node == node][-_IN_A_ROW:]
    elsewhere = [attempt for attempt in attempts if attempt.node != node]
    failed = [a for a in here if a.cause not in _NOT_OF_A_NODE]
    if len(failed) < _IN_A_ROW or len({signature(attempt) for attempt in failed}) > 1:
        return None
    if signature(failed[0]) in {signature(attempt) for attempt in elsewhere}:
        return None
    if not any(attempt.succeeded and attempt.node not in avoided for attempt in elsewhere):
        return None
    said = f"{failed[-1].cause}: {_short(failed[-1])}"
    return f"{_IN_A_ROW} trials in a row failed there, and nowhere else, by {said}"


def _short(attempt: AttemptRecord) -> str:
    said = last_line(attempt.error)
    return said if len(said) <= 120 else f"{said[:119]}…"
