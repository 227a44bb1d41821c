"""What became of a study's attempts where Optuna keeps all: attributes of trials and study."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpoctl.record import AttemptRecord, Stop
from hpoctl.study.past import read_bad_nodes, read_stop
from hpoctl.study.protocol import BAD_NODE_KEY, DRAIN_KEY, STOP_KEY, Outcome, Verdict
from hpoctl.words import Cause

_FAILURES_KEY = "hpoctl:failures"
_SUCCESSES = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True, slots=True)
class NativePast:
    """The past of a study that Optuna keeps."""

    storage: BaseStorage
    study_id: int

    def ended(self, *, last: int | None = None) -> list[AttemptRecord]:
        """The attempts that ended, or so many that ended last; the oldest first."""
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        found = [record for trial in trials for record in _attempts_at(trial)]
        found.sort(key=lambda record: record.ended_at)
        return found if last is None else found[-last:]

    def durations(self, last: int) -> list[float]:
        """How many seconds the last complete trials took."""
        complete = (TrialState.COMPLETE,)
        trials = self.storage.get_all_trials(self.study_id, deepcopy=False, states=complete)
        return [_seconds(t.datetime_complete) - _seconds(t.datetime_start) for t in trials[-last:]]

    def stop(self, stop: Stop) -> None:
        """Asks every worker that was submitted before to leave, and says why."""
        self.storage.set_study_system_attr(self.study_id, STOP_KEY, asdict(stop))
        self.storage.set_study_system_attr(self.study_id, DRAIN_KEY, stop.at)

    def stopped(self) -> Stop | None:
        """The last time that the study stopped itself."""
        return read_stop(self.storage.get_study_system_attrs(self.study_id))

    def avoid(self, node: str, why: str) -> None:
        """Excludes a node for this study."""
        self.storage.set_study_system_attr(self.study_id, f"{BAD_NODE_KEY}{node}", why)

    def trust(self, node: str) -> None:
        """Takes that back."""
        self.storage.set_study_system_attr(self.study_id, f"{BAD_NODE_KEY}{node}", None)

    def bad_nodes(self) -> Mapping[str, str]:
        """The nodes that are excluded, and why."""
        return read_bad_nodes(self.storage.get_study_system_attrs(self.study_id))


def note_failure(storage: BaseStorage, trial_id: int, verdict: Verdict) -> None:
    """Keeps why the present attempt at a running trial came to nothing, where Optuna keeps all."""
    if verdict.cause is None:
        return
    trial = storage.get_trial(trial_id)
    failure = {
        "attempt": trial.user_attrs.get("attempt", 1),
        "task": trial.user_attrs.get("task", ""),
        "node": trial.user_attrs.get("node", ""),
        "started_at": _seconds(trial.datetime_start),
        "ended_at": time.time(),
        "outcome": verdict.outcome,
        "cause": verdict.cause,
        "error": verdict.said,
    }
    before = trial.user_attrs.get(_FAILURES_KEY, [])
    storage.set_trial_user_attr(trial_id, _FAILURES_KEY, [*before, failure])


def has_failed(trial: FrozenTrial, attempt: int, verdict: Verdict) -> bool:
    """Whether an attempt is known to have come to nothing so."""
    failures = trial.user_attrs.get(_FAILURES_KEY, ())
    so = (attempt, verdict.cause, verdict.said)
    return any(so == (was["attempt"], was["cause"], was["error"]) for was in failures)


def without_failures(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's attributes as users read them: of its failures, the present one's cause."""
    shown = {key: value for key, value in attrs.items() if key != _FAILURES_KEY}
    for failure in attrs.get(_FAILURES_KEY, ()):
        if failure["attempt"] == attrs.get("attempt"):
            shown["cause"] = failure["cause"]
    return shown


def _attempts_at(trial: FrozenTrial) -> Iterator[AttemptRecord]:
    attrs = trial.user_attrs
    failures = [
        AttemptRecord(
            **{**said, "outcome": Outcome(said["outcome"]), "cause": Cause(said["cause"])},
            number=trial.number,
        )
        for said in attrs.get(_FAILURES_KEY, ())
    ]
    yield from failures
    attempt = attrs.get("attempt", 1)
    if trial.state in _SUCCESSES and attempt not in {failure.attempt for failure in failures}:
        yield AttemptRecord(
            number=trial.number,
            attempt=attempt,
            task=attrs.get("task", ""),
            node=attrs.get("node", ""),
            started_at=_seconds(trial.datetime_start),
            ended_at=_seconds(trial.datetime_complete),
            outcome=Outcome[trial.state.name],
        )


def _seconds(moment: datetime | None) -> float:
    return 0.0 if moment is None else moment.timestamp()
