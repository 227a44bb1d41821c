"""The statements that change a study, in PostgreSQL's, MariaDB's and SQLite's words; runs none.

An attempt without an outcome holds its trial. Whatever ends an attempt locks its row first, and
then the trial's, so that exactly one of a worker and of those who believe it dead succeeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from hpoctl.record import WorkerId, WorkerRecord
from hpoctl.study.database import Statement
from hpoctl.study.location import Kind
from hpoctl.study.protocol import CONSTRAINT_KEY, DRAIN_KEY, NOTHING, Claim, Outcome, Verdict
from hpoctl.study.rows import HELD, Parts, Questions

_TYPES = {math.inf: "INF_POS", -math.inf: "INF_NEG"}
_ATTEMPT = "hpoctl_attempts (trial_id, attempt, root, task, life, node, gpus, started_at)"
_DONE = (
    "exists (select 1 from hpoctl_attempts a where a.trial_id = ? and a.attempt = ?"
    " and a.outcome = ? and a.ended_at = ?)"
)
_UPSERT_VALUE = (
    "on conflict (trial_id, objective) do update"
    " set value = excluded.value, value_type = excluded.value_type"
)
_GIVEN_BACK = f"('{Outcome.LOST}', '{Outcome.RETURNED}')"


@dataclass(frozen=True, slots=True)
class Statements(Questions):
    """The statements about one study in one dialect."""

    # Claiming

    def take(self, trial_id: int, worker: WorkerRecord, at: float) -> list[Statement]:
        """Takes a trial within a transaction that has seen it wait."""
        sql = "update trials set state = 'RUNNING', datetime_start = ? where trial_id = ?"
        attempt, words = self._attempt(worker, at)
        return [
            (sql, [self.time(at), trial_id]),
            (f"{attempt} from trials t where t.trial_id = ?", [*words, trial_id]),
        ]

    def claim(
        self, worker: WorkerRecord, at: float, *, after: int, parts: Parts
    ) -> list[Statement]:
        """Takes the first waiting trial with an id greater than `after`; its rows, or none."""
        if self.kind is Kind.POSTGRESQL:
            return [self._claim_at_once(worker, at, after=after, parts=parts)]
        attempt, words = self._attempt(worker, at)
        return [
            (
                f"set @id = (select trial_id {self.waits_first} for update skip locked)",
                [self.study_id, after],
            ),
            (
                "update trials set state = 'RUNNING', datetime_start = ? where trial_id = @id",
                [self.time(at)],
            ),
            (f"{attempt} from trials t where t.trial_id = @id", words),
            self.taken("t.trial_id = @id", (), parts=parts),
        ]

    def _attempt(self, worker: WorkerRecord, at: float) -> tuple[str, list[object]]:
        """An insert of the next attempt at each trial `t` of what follows."""
        of = "from hpoctl_attempts a where a.trial_id = t.trial_id"
        sql = (
            f"insert into {_ATTEMPT} select t.trial_id,"
            f" 1 + coalesce((select max(a.attempt) {of}), 0),"
            f" coalesce((select max(a.root) {of}), t.number),"
            f" ?, {self.whole_number}, ?, {self.whole_number}, {self.number}"
        )
        return sql, [worker.task, worker.life, worker.node, worker.gpus, at]

    def _claim_at_once(
        self, worker: WorkerRecord, at: float, *, after: int, parts: Parts
    ) -> Statement:
        attempt, words = self._attempt(worker, at)
        ctes = (
            f"picked as (select trial_id {self.waits_first} for update skip locked),"
            " t as (update trials set state = 'RUNNING', datetime_start = ? from picked"
            " where trials.trial_id = picked.trial_id"
            " returning trials.trial_id, trials.number, trials.state),"
            f" tried as ({attempt} from t returning trial_id, attempt, root), "
        )
        source = (
            "select t.trial_id, number, state, attempt, root from t"
            " join tried on tried.trial_id = t.trial_id"
        )
        parameters = [self.study_id, after, self.time(at), *words]
        return self.whole(source, parameters, before=ctes, parts=parts, claim=True)

    def taken(self, condition: str, words: Sequence[object], *, parts: Parts) -> Statement:
        """The rows of trials `t` that an open attempt `a` holds."""
        source = (
            "select t.trial_id, t.number, t.state, a.attempt, a.root from trials t"
            f" join hpoctl_attempts a on a.trial_id = t.trial_id where {condition}"
            " and a.outcome is null"
        )
        return self.whole(source, words, parts=parts, claim=True)

    def taken_by(self, worker: WorkerId, *, known: Collection[int], parts: Parts) -> Statement:
        """What a worker took and does not know of: the answer to a claim was lost."""
        condition = "t.study_id = ? and t.state = 'RUNNING' and a.task = ? and a.life = ?"
        if known:
            condition += f" and t.trial_id not in ({', '.join('?' for _ in known)})"
        return self.taken(condition, [self.study_id, *worker, *known], parts=parts)

    def keep_params(self, trial_id: int, params: Sequence[tuple[str, float, str]]) -> Statement:
        """A trial's parameters, by name, internal number and distribution."""
        rows = ", ".join("(?, ?, ?, ?)" for _ in params)
        sql = (
            "insert into trial_params (trial_id, param_name, param_value, distribution_json)"
            f" values {rows} {self.upsert('trial_id, param_name', 'param_value')}"
        )
        return sql, [word for row in params for word in (trial_id, *row)]

    # A running trial

    def report(self, claim: Claim, value: float, step: int) -> Statement:
        """Keeps a value at a step, if the trial is still this claim's."""
        kind = "NAN" if math.isnan(value) else _TYPES.get(value, "FINITE")
        stored = value if kind == "FINITE" else None
        columns = ("intermediate_value", "intermediate_value_type")
        sql = (
            f"insert into trial_intermediate_values (trial_id, step, {', '.join(columns)})"
            f" select trial_id, {self.whole_number}, {self.number},"
            f" {self.enum('trialintermediatevaluetype')}"
            f" from hpoctl_attempts where {HELD} {self.upsert('trial_id, step', *columns)}"
        )
        return sql, [step, stored, kind, claim.trial_id, claim.attempt]

    def forget_steps(self, claim: Claim, after: int) -> Statement:
        """Removes what an earlier attempt reported of steps that this one has not reached yet."""
        held = f"select 1 from hpoctl_attempts where {HELD}"
        sql = (
            "delete from trial_intermediate_values where trial_id = ? and step > ?"
            f" and exists ({held})"
        )
        return sql, [claim.trial_id, after, claim.trial_id, claim.attempt]

    def system_attr(self, claim: Claim, key: str, value: object) -> Statement:
        """Keeps an attribute of a pruner, if the trial is still this claim's."""
        upsert = self.upsert("trial_id, key", "value_json")
        sql = f"{self._system_attr} hpoctl_attempts where {HELD} {upsert}"
        return sql, [key, json.dumps(value), claim.trial_id, claim.attempt]

    # Its end

    def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        at: float,
        values: Sequence[float] | None,
        attrs: Mapping[str, object],
        seed: int,
        constraints: Mapping[str, float] = NOTHING,
    ) -> list[Statement]:
        """Ends a trial if it is this claim's, or waits again; the last gives one row if it did.

        Harmless to repeat with the same `at`.
        """
        id_ = claim.trial_id
        by_us = [id_, claim.attempt, outcome.value, at]
        return [
            *self._end(claim, outcome, at, seed),
            *self._values(id_, values or (), by_us),
            *self._user_attrs(id_, attrs, by_us),
            *self._constraints(id_, constraints, by_us),
            (f"select 1 from trials where trial_id = ? and {_DONE}", [id_, *by_us]),
        ]

    def _end(self, claim: Claim, outcome: Outcome, at: float, seed: int) -> list[Statement]:
        """Ends an attempt and its trial, if the one may end the other."""
        id_, ours = claim.trial_id, [claim.trial_id, claim.attempt]
        state, may = _state(outcome), f"in {_GIVEN_BACK}"
        if self.kind is Kind.MYSQL:  # changes two tables in one statement
            both = (
                "update hpoctl_attempts a join trials t on t.trial_id = a.trial_id"
                " set a.outcome = ?, a.ended_at = ?, a.seed = ?, t.state = ?,"
                " t.datetime_complete = ? where a.trial_id = ? and a.attempt = ?"
                " and (a.outcome is null and t.state = 'RUNNING'"
                f" or a.outcome {may} and t.state = 'WAITING')"
            )
            return [(both, [outcome.value, at, seed, state, self.time(at), *ours])]
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
            *self._lock(claim),
            (mine, [outcome.value, at, seed, *ours, id_, id_]),
            (trial, [state, self.time(at), id_, *ours, outcome.value, at]),
        ]

    def finish_at_once(
        self,
        claim: Claim,
        outcome: Outcome,
        at: float,
        values: Sequence[float] | None,
        attrs: Mapping[str, object],
        seed: int,
        constraints: Mapping[str, float] = NOTHING,
    ) -> Statement:
        """Ends a trial that is this claim's, in one statement of PostgreSQL; one row if it is."""
        parts = [
            "mine as (update hpoctl_attempts set outcome = ?, ended_at = ?, seed = ?"
            f" where {HELD} returning trial_id)",
            "t as (update trials set state = ?, datetime_complete = ? from mine where"
            " trials.trial_id = mine.trial_id and state = 'RUNNING' returning trials.trial_id)",
        ]
        parameters: list[object] = [outcome.value, at, seed, claim.trial_id, claim.attempt]
        parameters += [_state(outcome), self.time(at)]
        for i, value in enumerate(values or ()):
            parts.append(f"value{i} as ({self._value} t {_UPSERT_VALUE})")
            parameters += [i, *_stored(value)]
        upsert = self.upsert("trial_id, key", "value_json")
        for i, (key, content) in enumerate(attrs.items()):
            parts.append(f"attr{i} as ({self._user_attr} t {upsert})")
            parameters += [key, json.dumps(content)]
        for i, (name, violation) in enumerate(constraints.items()):
            parts.append(f"limit{i} as ({self._system_attr} t {upsert})")
            parameters += [f"{CONSTRAINT_KEY}{name}", json.dumps(violation)]
        return f"with {', '.join(parts)} select 1 from t", parameters

    @property
    def _value(self) -> str:
        return (
            "insert into trial_values (trial_id, objective, value, value_type)"
            f" select trial_id, {self.whole_number}, {self.number},"
            f" {self.enum('trialvaluetype')} from"
        )

    @property
    def _user_attr(self) -> str:
        return (
            f"insert into trial_user_attributes (trial_id, {self.key}, value_json)"
            " select trial_id, ?, ? from"
        )

    @property
    def _system_attr(self) -> str:
        return (
            f"insert into trial_system_attributes (trial_id, {self.key}, value_json)"
            " select trial_id, ?, ? from"
        )

    def _constraints(
        self, trial_id: int, constraints: Mapping[str, float], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, key", "value_json")
        sql = f"{self._system_attr} trials where trial_id = ? and {_DONE} {upsert}"
        return [
            (sql, [f"{CONSTRAINT_KEY}{name}", json.dumps(violation), trial_id, *by_us])
            for name, violation in constraints.items()
        ]

    def _values(
        self, trial_id: int, values: Sequence[float], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, objective", "value", "value_type")
        sql = f"{self._value} trials where trial_id = ? and {_DONE} {upsert}"
        return [(sql, [i, *_stored(value), trial_id, *by_us]) for i, value in enumerate(values)]

    def _user_attrs(
        self, trial_id: int, attrs: Mapping[str, object], by_us: Sequence[object]
    ) -> list[Statement]:
        upsert = self.upsert("trial_id, key", "value_json")
        sql = f"{self._user_attr} trials where trial_id = ? and {_DONE} {upsert}"
        return [(sql, [key, json.dumps(value), trial_id, *by_us]) for key, value in attrs.items()]

    def _lock(self, claim: Claim) -> list[Statement]:
        """Makes whoever changes a trial wait: always its attempt first, so that none deadlocks."""
        if self.kind is Kind.SQLITE:
            return []
        attempt = "select 1 from hpoctl_attempts where trial_id = ? and attempt = ? for update"
        trial = "select 1 from trials where trial_id = ? for update"
        return [(attempt, [claim.trial_id, claim.attempt]), (trial, [claim.trial_id])]

    def keep_late(self, claim: Claim, values: Sequence[float]) -> Statement:
        """Keeps the values of an attempt that came too late."""
        sql = "update hpoctl_attempts set late = ? where trial_id = ? and attempt = ?"
        return sql, [json.dumps(list(values)), claim.trial_id, claim.attempt]

    # Lost trials

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

    def inherit(self, number: int, trial_id: int) -> Statement:
        """Lets a new trial go on where the last attempt at trial `number` ended; as if not lost."""
        sql = (
            f"insert into {_ATTEMPT.removesuffix(')')}, ended_at, outcome)"
            f" select {self.whole_number}, a.attempt, a.root, a.task, a.life, a.node, a.gpus,"
            " a.started_at,"
            f" a.ended_at, '{Outcome.FAILED}' from hpoctl_attempts a join trials t"
            " on t.trial_id = a.trial_id where t.study_id = ? and t.number = ?"
            " order by a.attempt desc limit 1"
        )
        return sql, [trial_id, self.study_id, number]

    # Workers

    def sign_on(self, worker: WorkerRecord) -> list[Statement]:
        """Gives a worker the next life of its task; the last gives that life."""
        said = json.dumps(asdict(worker))
        insert = (
            "insert into hpoctl_workers (study_id, task, life, started_at, record)"
            f" select {self.whole_number}, ?, 1 + coalesce(max(life), 0), {self.number}, ?"
            " from hpoctl_workers"
            " where study_id = ? and task = ?"
        )
        key = [self.study_id, worker.task]
        return [(insert, [*key, worker.started_at, said, *key]), self.life(worker)]

    def check_in(self, worker: WorkerRecord) -> list[Statement]:
        """Keeps what a worker says of itself; the last gives when workers were told to leave."""
        said, orders = self.keep_worker(worker), self.study_attr(DRAIN_KEY)
        if self.kind is not Kind.POSTGRESQL:
            return [said, orders]
        return [(f"with said as ({said[0]}) {orders[0]}", [*said[1], *orders[1]])]

    def keep_worker(self, worker: WorkerRecord) -> Statement:
        """Writes what a worker says of itself over what it said before."""
        sql = "update hpoctl_workers set record = ? where study_id = ? and task = ? and life = ?"
        said = json.dumps(asdict(replace(worker, trial=None)))
        return sql, [said, self.study_id, worker.task, worker.life]

    # The study's own attributes

    def keep_study_attr(self, key: str, value: object) -> Statement:
        """Keeps a system attribute of the study."""
        sql = (
            f"insert into study_system_attributes (study_id, {self.key}, value_json)"
            f" values (?, ?, ?) {self.upsert('study_id, key', 'value_json')}"
        )
        return sql, [self.study_id, key, json.dumps(value)]


def _stored(value: float) -> tuple[float | None, str]:
    """A value as Optuna's columns hold it: infinite ones by their type."""
    kind = _TYPES.get(value, "FINITE")
    return (value if kind == "FINITE" else None), kind


def _state(outcome: Outcome) -> str:
    """Optuna's word for a trial that ended so."""
    return "FAIL" if outcome is Outcome.FAILED else outcome.name
