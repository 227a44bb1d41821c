"""The statements that end an attempt, and with it its trial or not; runs none.

An attempt without an outcome holds its trial. Whatever ends an attempt locks its row first, and
then the trial's, so that exactly one of a worker and of those who believe it dead succeeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpoctl.study.database import Statement
from hpoctl.study.dialect import Dialect, stored
from hpoctl.study.location import Kind
from hpoctl.study.protocol import CONSTRAINT_KEY, Claim, Outcome, Verdict
from hpoctl.study.rows import HELD

_DONE = (
    "exists (select 1 from hpoctl_attempts a where a.trial_id = ? and a.attempt = ?"
    " and a.outcome = ? and a.ended_at = ?)"
)
_UPSERT_VALUE = (
    "on conflict (trial_id, objective) do update"
    " set value = excluded.value, value_type = excluded.value_type"
)
_GIVEN_BACK = f"('{Outcome.LOST}', '{Outcome.RETURNED}')"


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a trial ended, and all that is kept of it."""

    claim: Claim
    outcome: Outcome
    at: float
    seed: int
    values: Sequence[float] = ()
    attrs: Mapping[str, object] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Optuna's word for it."""
        return "FAIL" if self.outcome is Outcome.FAILED else self.outcome.name


@dataclass(frozen=True, slots=True)
class Ends(Dialect):
    """The statements that end attempts, in one dialect."""

    def finish(self, end: End) -> list[Statement]:
        """Ends a trial if it is this claim's, or waits again; the last gives one row if it did.

        Harmless to repeat with the same `at`.
        """
        id_ = end.claim.trial_id
        by_us = [id_, end.claim.attempt, end.outcome.value, end.at]
        return [
            *self._end(end),
            *self._values(id_, end.values, by_us),
            *self._user_attrs(id_, end.attrs, by_us),
            *self._constraints(id_, end.constraints, by_us),
            (f"select 1 from trials where trial_id = ? and {_DONE}", [id_, *by_us]),
        ]

    def _end(self, end: End) -> list[Statement]:
        """Ends an attempt and its trial, if the one may end the other."""
        id_, ours = end.claim.trial_id, [end.claim.trial_id, end.claim.attempt]
        ended, moment = [end.outcome.value, end.at, end.seed], self.time(end.at)
        may = f"in {_GIVEN_BACK}"
        if self.kind is Kind.MYSQL:  # changes two tables in one statement
            both = (
                "update hpoctl_attempts a join trials t on t.trial_id = a.trial_id"
                " set a.outcome = ?, a.ended_at = ?, a.seed = ?, t.state = ?,"
                " t.datetime_complete = ? where a.trial_id = ? and a.attempt = ?"
                " and (a.outcome is null and t.state = 'RUNNING'"
                f" or a.outcome {may} and t.state = 'WAITING')"
            )
            return [(both, [*ended, end.state, moment, *ours])]
        now = f"(select {self.text('state')} from trials where trial_id = ?)"
        mine = (
            "update hpoctl_attempts set outcome = ?, ended_at = ?, seed = ?"
            " where trial_id = ? and attempt = ? and"
            f" (outcome is null and {now} = 'RUNNING' or outcome {may} and {now} = 'WAITING')"
        )
        trial = (
            "update trials set state = ?, datetime_complete = ? where trial_id = ?"
            f" and state in ('RUNNING', 'WAITING') and {_DONE}"
        )
        return [
            *self._lock(end.claim),
            (mine, [*ended, *ours, id_, id_]),
            (trial, [end.state, moment, id_, *ours, end.outcome.value, end.at]),
        ]

    def finish_at_once(self, end: End) -> Statement:
        """Ends a trial that is this claim's, in one statement of PostgreSQL; one row if it is."""
        parts = [
            "mine as (update hpoctl_attempts set outcome = ?, ended_at = ?, seed = ?"
            f" where {HELD} returning trial_id)",
            "t as (update trials set state = ?, datetime_complete = ? from mine where"
            " trials.trial_id = mine.trial_id and state = 'RUNNING' returning trials.trial_id)",
        ]
        parameters: list[object] = [end.outcome.value, end.at, end.seed]
        parameters += [end.claim.trial_id, end.claim.attempt, end.state, self.time(end.at)]
        for i, value in enumerate(end.values):
            parts.append(f"value{i} as ({self._value} t {_UPSERT_VALUE})")
            parameters += [i, *stored(value)]
        upsert = self.upsert("trial_id, key", "value_json")
        for i, (key, content) in enumerate(end.attrs.items()):
            parts.append(f"attr{i} as ({self.into_attrs('user')} t {upsert})")
            parameters += [key, json.dumps(content)]
        for i, (name, violation) in enumerate(end.constraints.items()):
            parts.append(f"limit{i} as ({self.into_attrs('system')} t {upsert})")
            parameters += [f"{CONSTRAINT_KEY}{name}", json.dumps(violation)]
        return f"with {', '.join(parts)} select 1 from t", parameters

    def give_back(
        self, trial_id: int, attempt: int, verdict: Verdict, *, at: float
    ) -> list[Statement]:
        """Lets a running trial wait again, or fails it; the last gives one row if it did."""
        by_us = [trial_id, attempt, verdict.outcome.value, at]
        state, moment = "WAITING", None
        if verdict.error is not None:
            state = "PRUNED" if verdict.outcome is Outcome.PRUNED else "FAIL"
            moment = self.time(at)
        return [
            (
                f"update hpoctl_attempts set outcome = ?, ended_at = ? where {HELD}",
                [verdict.outcome.value, at, trial_id, attempt],
            ),
            (
                "update trials set state = ?, datetime_complete = ? where trial_id = ?"
                f" and state = 'RUNNING' and {_DONE}",
                [state, moment, trial_id, *by_us],
            ),
            *self._user_attrs(trial_id, verdict.kept, by_us),
            *self._constraints(trial_id, verdict.constraints, by_us),
            (f"select 1 from trials where trial_id = ? and {_DONE}", [trial_id, *by_us]),
        ]

    def keep_late(self, claim: Claim, values: Sequence[float]) -> Statement:
        """Keeps the values of an attempt that came too late."""
        sql = "update hpoctl_attempts set late = ? where trial_id = ? and attempt = ?"
        return sql, [json.dumps(list(values)), claim.trial_id, claim.attempt]

    def _lock(self, claim: Claim) -> list[Statement]:
        """Makes whoever changes a trial wait: always its attempt first, so that none deadlocks."""
        if self.kind is Kind.SQLITE:
            return []
        attempt = "select 1 from hpoctl_attempts where trial_id = ? and attempt = ? for update"
        trial = "select 1 from trials where trial_id = ? for update"
        return [(attempt, [claim.trial_id, claim.attempt]), (trial, [claim.trial_id])]

    @property
    def _value(self) -> str:
        return (
            "insert into trial_values (trial_id, objective, value, value_type)"
            f" select trial_id, {self.whole_number}, {self.number},"
            f" {self.enum('trialvaluetype')} from"
        )

    def _values(
        self, trial_id: int, values: Sequence[float], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, objective", "value", "value_type")
        sql = f"{self._value} trials where trial_id = ? and {_DONE} {upsert}"
        return [(sql, [i, *stored(value), trial_id, *by_us]) for i, value in enumerate(values)]

    def _user_attrs(
        self, trial_id: int, attrs: Mapping[str, object], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, key", "value_json")
        sql = f"{self.into_attrs('user')} trials where trial_id = ? and {_DONE} {upsert}"
        return [(sql, [key, json.dumps(value), trial_id, *by_us]) for key, value in attrs.items()]

    def _constraints(
        self, trial_id: int, constraints: Mapping[str, float], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, key", "value_json")
        sql = f"{self.into_attrs('system')} trials where trial_id = ? and {_DONE} {upsert}"
        return [
            (sql, [f"{CONSTRAINT_KEY}{name}", json.dumps(violation), trial_id, *by_us])
            for name, violation in constraints.items()
        ]
