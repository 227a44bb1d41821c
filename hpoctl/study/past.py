"""What became of a study's attempts, and what all its workers conclude from that: in a database.

Knows no Optuna: `summary` reads here too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from hpoctl.record import AttemptRecord, Stop
from hpoctl.study.database import Database, Statement
from hpoctl.study.dialect import Dialect
from hpoctl.study.protocol import BAD_NODE_KEY, DRAIN_KEY, STOP_KEY, Claim, Outcome, Verdict
from hpoctl.words import Cause


@dataclass(frozen=True, slots=True)
class Attempts(Dialect):
    """The statements about the attempts of one study."""

    study_id: int

    def keep_failure(self, claim: Claim, verdict: Verdict, at: float) -> Statement:
        """Keeps why an attempt came to nothing, if it ended by this verdict."""
        sql = (
            "update hpoctl_attempts set cause = ?, error = ?"
            " where trial_id = ? and attempt = ? and outcome = ? and ended_at = ?"
        )
        key = [claim.trial_id, claim.attempt, verdict.outcome.value, at]
        # PostgreSQL's text holds no NUL, and none of the three a half of a surrogate pair.
        said = verdict.said.replace("\0", "").encode(errors="replace").decode()
        return sql, [verdict.cause, said, *key]

    def losses(self, claim: Claim) -> Statement:
        """How often a trial was lost before this claim, in one row."""
        sql = "select count(*) from hpoctl_attempts where trial_id = ? and outcome = ?"
        return f"{sql} and attempt < ?", [claim.trial_id, Outcome.LOST.value, claim.attempt]

    def ended(self, last: int | None) -> Statement:
        """The attempts that ended last, backwards in time; all columns of an AttemptRecord.

        A version of these tables kept no cause: then it is the trial that says what went wrong.
        """
        error = (
            "(select u.value_json from trial_user_attributes u"
            f" where u.trial_id = t.trial_id and u.{self.key} = 'error')"
        )
        sql = (
            "select t.number, a.attempt, a.task, a.node, a.started_at, a.ended_at, a.outcome,"
            f" a.cause, a.error, case when a.outcome = '{Outcome.FAILED}' and a.cause is null"
            f" then {error} end from hpoctl_attempts a join trials t on t.trial_id = a.trial_id"
            " where t.study_id = ? and a.outcome is not null order by a.ended_at desc"
        )
        return (sql, [self.study_id]) if last is None else (f"{sql} limit ?", [self.study_id, last])

    def durations(self, last: int) -> Statement:
        """How long the last complete trials took."""
        sql = (
            "select a.ended_at - a.started_at from hpoctl_attempts a"
            " join trials t on t.trial_id = a.trial_id where t.study_id = ?"
            f" and t.state = 'COMPLETE' and a.outcome = '{Outcome.COMPLETE}'"
            " order by a.trial_id desc limit ?"
        )
        return sql, [self.study_id, last]

    def attrs(self) -> Statement:
        """The system attributes of the study that are ours: `key, value`."""
        sql = f"select {self.key}, value_json from study_system_attributes where study_id = ?"
        return f"{sql} and {self.key} like ?", [self.study_id, "hpoctl:%"]

    def keep_attr(self, key: str, value: object) -> Statement:
        """Keeps a system attribute of the study."""
        return self.keep_study_attr(self.study_id, key, value)


@dataclass(frozen=True, slots=True)
class RelationalPast:
    """The past of a study in a database."""

    database: Database
    sql: Attempts

    def ended(self, *, last: int | None = None) -> list[AttemptRecord]:
        """The attempts that ended, or so many that ended last; the oldest first."""
        rows = self.database.run(self.sql.ended(last))
        return [_attempt(row) for row in reversed([*rows])]

    def durations(self, last: int) -> list[float]:
        """How many seconds the last complete trials took."""
        return [float(row[0]) for row in self.database.run(self.sql.durations(last))]

    def stop(self, stop: Stop) -> None:
        """Asks every worker that was submitted before to leave, and says why."""
        self.database.run(
            self.sql.keep_attr(STOP_KEY, asdict(stop)), self.sql.keep_attr(DRAIN_KEY, stop.at)
        )

    def stopped(self) -> Stop | None:
        """The last time that the study stopped itself."""
        return read_stop(self._attrs())

    def avoid(self, node: str, why: str) -> None:
        """Excludes a node for this study."""
        self.database.run(self.sql.keep_attr(f"{BAD_NODE_KEY}{node}", why))

    def trust(self, node: str) -> None:
        """Takes that back."""
        self.database.run(self.sql.keep_attr(f"{BAD_NODE_KEY}{node}", None))

    def bad_nodes(self) -> Mapping[str, str]:
        """The nodes that are excluded, and why."""
        return read_bad_nodes(self._attrs())

    def _attrs(self) -> Mapping[str, object]:
        return {key: json.loads(text) for key, text in self.database.run(self.sql.attrs())}


def read_stop(attrs: Mapping[str, object]) -> Stop | None:
    """When and why a study stopped itself, from its system attributes."""
    said = attrs.get(STOP_KEY)
    return Stop(at=float(said["at"]), why=str(said["why"])) if isinstance(said, dict) else None


def read_bad_nodes(attrs: Mapping[str, object]) -> Mapping[str, str]:
    """The nodes that a study avoids, from its system attributes; none of those trusted again."""
    return {
        key.removeprefix(BAD_NODE_KEY): str(why)
        for key, why in attrs.items()
        if key.startswith(BAD_NODE_KEY) and why is not None
    }


def _attempt(row: Sequence[object]) -> AttemptRecord:
    number, attempt, task, node, started_at, ended_at, outcome, cause, error, of_trial = row
    if isinstance(of_trial, str):
        cause, error = Cause.ERROR, json.loads(of_trial)
    return AttemptRecord(
        number=int(str(number)),
        attempt=int(str(attempt)),
        task=str(task),
        node=str(node),
        started_at=float(str(started_at)),
        ended_at=float(str(ended_at)),
        outcome=Outcome(str(outcome)),
        cause=None if cause is None else Cause(str(cause)),
        error="" if error is None else str(error),
    )
