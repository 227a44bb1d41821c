"""The statements that give trials to workers and keep what both say; runs none.

An attempt without an outcome holds its trial; `ends` has what ends it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace

from hpoctl.record import WorkerId, WorkerRecord
from hpoctl.study.database import Statement
from hpoctl.study.dialect import stored
from hpoctl.study.location import Kind
from hpoctl.study.protocol import DRAIN_KEY, Claim, Outcome
from hpoctl.study.rows import HELD, Parts, Questions

_ATTEMPT = "hpoctl_attempts (trial_id, attempt, root, task, life, node, gpus, started_at)"


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
        columns = ("intermediate_value", "intermediate_value_type")
        sql = (
            f"insert into trial_intermediate_values (trial_id, step, {', '.join(columns)})"
            f" select trial_id, {self.whole_number}, {self.number},"
            f" {self.enum('trialintermediatevaluetype')}"
            f" from hpoctl_attempts where {HELD} {self.upsert('trial_id, step', *columns)}"
        )
        return sql, [step, *stored(value), claim.trial_id, claim.attempt]

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
        sql = f"{self.into_attrs('system')} hpoctl_attempts where {HELD} {upsert}"
        return sql, [key, json.dumps(value), claim.trial_id, claim.attempt]

    # Another trial's past

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
