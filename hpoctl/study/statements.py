"""The SQL of a study, in the words of PostgreSQL, MariaDB/MySQL and SQLite; runs none of it.

The tables are those of Optuna's schema v3.2.0.a. What a study says comes as rows of one shape, so
that one statement can answer several questions: `(kind, trial_id, at, number, word, text)`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from hpoctl.study.database import Statement
from hpoctl.study.dialect import SEED, Dialect
from hpoctl.study.location import Kind
from hpoctl.study.protocol import Claim

_FIRST_WAITING = "from trials where study_id = ? and state = 'WAITING' order by trial_id limit 1"
_TYPES = {math.inf: "INF_POS", -math.inf: "INF_NEG"}


@dataclass(frozen=True, slots=True)
class News:
    """A table whose new rows name the trials that changed.

    The last `overlap` rows are read again: ids are not committed in their order.
    """

    table: str
    id: str
    overlap: int


NEW_PARAMS = News("trial_params", "param_id", 256)
NEW_VALUES = News("trial_values", "trial_value_id", 64)
NEW_ATTRS = News("trial_system_attributes", "trial_system_attribute_id", 64)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is read of each trial: `steps` only of those in these states."""

    params: bool = True
    values: bool = True
    attrs: bool = True
    steps: tuple[str, ...] = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")


EVERYTHING = Parts()
_OF_A_CLAIM = Parts(values=False, attrs=False, steps=())  # a part more is planning time a claim


@dataclass(frozen=True, slots=True)
class Statements(Dialect):
    """The statements about one study in one dialect."""

    study_id: int

    def size(self) -> Statement:
        """How many trials there are."""
        return "select count(*) from trials where study_id = ?", [self.study_id]

    # Claiming

    def first_waiting(self) -> Statement:
        """The first waiting trial."""
        return f"select trial_id, number {_FIRST_WAITING}", [self.study_id]

    def take(self, trial_id: int, started: datetime) -> Statement:
        """Marks a trial as running, within a transaction that has seen it wait."""
        sql = "update trials set state = 'RUNNING', datetime_start = ? where trial_id = ?"
        return sql, [self.time(started), trial_id]

    def claim(self, attrs: Mapping[str, object], seed: int, started: datetime) -> list[Statement]:
        """Takes the first waiting trial and marks it as ours; its row and its parameters, or none.

        The number in its row is 1 if the trial was run before, so that there is more to it.
        """
        pairs = [(key, json.dumps(value)) for key, value in attrs.items()]
        if self.kind is Kind.POSTGRESQL:
            return [self._claim_at_once(pairs, str(seed), started)]
        insert = f"insert into trial_user_attributes (trial_id, {self.key}, value_json)"
        mine = f"from trials where trial_id = @id {self.upsert('trial_id, key', 'value_json')}"
        return [
            ("set @id = null", ()),
            (
                f"select trial_id, datetime_start is not null into @id, @again {_FIRST_WAITING}"
                " for update skip locked",
                [self.study_id],
            ),
            (
                "update trials set state = 'RUNNING', datetime_start = ? where trial_id = @id",
                [started],
            ),
            *((f"{insert} select trial_id, ?, ? {mine}", pair) for pair in pairs),
            (f"{insert} select trial_id, 'seed', {SEED[self.kind]} {mine}", [str(seed)]),
            self._whole(
                "select trial_id, number, state from trials where trial_id = @id",
                (),
                parts=_OF_A_CLAIM,
                flag="@again",
            ),
        ]

    def _claim_at_once(
        self, pairs: Sequence[tuple[str, str]], seed: str, started: datetime
    ) -> Statement:
        given = "".join(" union all select trial_id, ?, ? from taken" for _ in pairs)
        ctes = (
            f"picked as (select trial_id, datetime_start is not null as again {_FIRST_WAITING}"
            " for update skip locked),"
            " taken as (update trials t set state = 'RUNNING', datetime_start = ? from picked"
            " where t.trial_id = picked.trial_id"
            " returning t.trial_id, t.number, t.state, again),"
            " kept as (insert into trial_user_attributes (trial_id, key, value_json)"
            f" select trial_id, 'seed', {SEED[self.kind]} from taken{given}"
            f" {self.upsert('trial_id, key', 'value_json')}), "
        )
        flat = [word for pair in pairs for word in pair]
        parameters = [self.study_id, self.time(started), seed, *flat]
        return self._whole(
            "select * from taken",
            parameters,
            before=ctes,
            parts=_OF_A_CLAIM,
            flag="again::int::float8",
        )

    def taken_at(self, started: datetime, task: object, *, known: Collection[int]) -> Statement:
        """What a task took at a moment and does not know of: the answer to a claim was lost."""
        source = (
            "select t.trial_id, t.number, t.state from trials t"
            " join trial_user_attributes a on a.trial_id = t.trial_id"
            " where t.study_id = ? and t.state = 'RUNNING' and t.datetime_start = ?"
            f" and a.{self.key} = 'task' and a.value_json = ?"
        )
        if known:
            source += f" and t.trial_id not in ({', '.join('?' for _ in known)})"
        parameters = [self.study_id, self.time(started), json.dumps(task), *known]
        return self._whole(source, parameters)

    def trial(self, trial_id: int) -> Statement:
        """The rows of one trial."""
        return self._whole(
            "select trial_id, number, state from trials where trial_id = ?", [trial_id]
        )

    # Reading

    def _whole(
        self,
        source: str,
        parameters: Sequence[object],
        *,
        before: str = "",
        parts: Parts = EVERYTHING,
        more: str = "",
        flag: str | None = None,
    ) -> Statement:
        """The rows of the trials that `source` selects."""
        text = "::text" if self.kind is Kind.POSTGRESQL else ""
        null = {Kind.POSTGRESQL: "null::float8"}.get(self.kind, "null")
        join = "join c on c.trial_id ="
        rows = [f"select 'trial', trial_id, number, {flag or null}, state{text}, null from c"]
        if parts.params:
            rows.append(
                "select 'param', p.trial_id, p.param_id, p.param_value, p.param_name,"
                f" p.distribution_json from trial_params p {join} p.trial_id"
            )
        if parts.values:
            rows.append(
                f"select 'value', v.trial_id, v.objective, v.value, v.value_type{text}, null"
                f" from trial_values v {join} v.trial_id"
            )
        if parts.attrs:
            rows.append(
                f"select 'attr', a.trial_id, 0, null, a.{self.key}, a.value_json"
                f" from trial_system_attributes a {join} a.trial_id"
            )
        if parts.steps:
            states = ", ".join(f"'{state}'" for state in parts.steps)
            rows.append(
                "select 'step', s.trial_id, s.step, s.intermediate_value,"
                f" s.intermediate_value_type{text}, null from trial_intermediate_values s"
                f" {join} s.trial_id where c.state in ({states})"
            )
        return f"with {before}c as ({source}) {' union all '.join(rows)}{more}", parameters

    def everything(self) -> Statement:
        """The rows of all trials."""
        source = "select trial_id, number, state from trials where study_id = ?"
        return self._whole(source, [self.study_id])

    def user_attrs(self) -> Statement:
        """All trials' user attributes: `trial_id, key, value`."""
        sql = (
            f"select a.trial_id, a.{self.key}, a.value_json from trial_user_attributes a"
            " join trials t on t.trial_id = a.trial_id where t.study_id = ?"
        )
        return sql, [self.study_id]

    def times(self) -> Statement:
        """All trials' times: `trial_id, start, end`."""
        sql = "select trial_id, datetime_start, datetime_complete from trials where study_id = ?"
        return sql, [self.study_id]

    def changed(
        self,
        marks: Mapping[News, int],
        parts: Parts,
        *,
        open_: Collection[int],
        known: Collection[int],
    ) -> Statement:
        """The rows of trials with news since `marks`, of those `open_`, and not of those `known`.

        A row `mark` for each source of news says where to go on.
        """
        sources = [f"select distinct trial_id from {n.table} where {n.id} > ?" for n in marks]
        parameters: list[object] = [mark - news.overlap for news, mark in marks.items()]
        if open_:
            marks_ = ", ".join("?" for _ in open_)
            sources.append(f"select trial_id from trials where trial_id in ({marks_})")
            parameters += open_
        parameters.append(self.study_id)
        source = (
            "select t.trial_id, t.number, t.state from ids join trials t"
            " on t.trial_id = ids.trial_id where t.study_id = ?"
        )
        if known:
            source += f" and t.trial_id not in ({', '.join('?' for _ in known)})"
            parameters += known
        newest = "".join(
            f" union all select 'mark', 0, coalesce(max({n.id}), 0), null, '{n.table}', null"
            f" from {n.table}"
            for n in marks
        )
        ids = f"ids as ({' union '.join(sources)}), "
        return self._whole(source, parameters, before=ids, parts=parts, more=newest)

    # Writing

    def keep_params(self, trial_id: int, params: Sequence[tuple[str, float, str]]) -> Statement:
        """A trial's parameters, by name, internal number and distribution."""
        rows = ", ".join("(?, ?, ?, ?)" for _ in params)
        sql = (
            "insert into trial_params (trial_id, param_name, param_value, distribution_json)"
            f" values {rows} {self.upsert('trial_id, param_name', 'param_value')}"
        )
        return sql, [word for row in params for word in (trial_id, *row)]

    def held(self, claim: Claim) -> tuple[str, list[object]]:
        """The condition that a trial is still this claim's."""
        start = [claim.trial_id, self.time(claim.started)]
        return "trial_id = ? and state = 'RUNNING' and datetime_start = ?", start

    def is_held(self, claim: Claim) -> Statement:
        """One row if the trial is still this claim's."""
        condition, parameters = self.held(claim)
        null = "null::float8" if self.kind is Kind.POSTGRESQL else "null"
        return f"select 'held', trial_id, 0, {null}, null, null from trials where {condition}", (
            parameters
        )

    def report(self, claim: Claim, value: float, step: int) -> Statement:
        """Keeps a value at a step, if the trial is still this claim's."""
        condition, parameters = self.held(claim)
        kind = "NAN" if math.isnan(value) else _TYPES.get(value, "FINITE")
        stored = value if kind == "FINITE" else None
        columns = ("intermediate_value", "intermediate_value_type")
        sql = (
            f"insert into trial_intermediate_values (trial_id, step, {', '.join(columns)})"
            f" select trial_id, ?, {self.number}, {self.enum('trialintermediatevaluetype')}"
            f" from trials where {condition} {self.upsert('trial_id, step', *columns)}"
        )
        return sql, [step, stored, kind, *parameters]

    def system_attr(self, claim: Claim, key: str, value: object) -> Statement:
        """Keeps an attribute of a pruner, if the trial is still this claim's."""
        condition, parameters = self.held(claim)
        return self._attr("trial_system_attributes", key, value, condition, parameters)

    def user_attr(self, trial_id: int, key: str, value: object) -> Statement:
        """Keeps an attribute of a trial, whoever holds it."""
        return self._attr("trial_user_attributes", key, value, "trial_id = ?", [trial_id])

    def _attr(
        self, table: str, key: str, value: object, condition: str, parameters: Sequence[object]
    ) -> Statement:
        sql = (
            f"insert into {table} (trial_id, {self.key}, value_json)"
            f" select trial_id, ?, ? from trials where {condition}"
            f" {self.upsert('trial_id, key', 'value_json')}"
        )
        return sql, [key, json.dumps(value), *parameters]

    def finish(
        self,
        claim: Claim,
        state: str,
        ended: datetime,
        values: Sequence[float] | None,
        attrs: Mapping[str, object],
    ) -> list[Statement]:
        """Ends a trial if it is still this claim's; the last gives one row if it did."""
        condition, parameters = self.held(claim)
        if claim.task is not None:
            condition += (
                " and exists (select 1 from trial_user_attributes a where a.trial_id ="
                f" trials.trial_id and a.{self.key} = 'task' and a.value_json = ?)"
            )
            parameters = [*parameters, json.dumps(claim.task)]
        update = f"update trials set state = ?, datetime_complete = ? where {condition}"
        done = "trial_id = ? and datetime_start = ? and datetime_complete = ? and state = ?"
        by_us = [claim.trial_id, self.time(claim.started), self.time(ended), state]
        insert = (
            "insert into trial_values (trial_id, objective, value, value_type)"
            f" select trial_id, ?, {self.number}, {self.enum('trialvaluetype')} from trials"
            f" where {done} {self.upsert('trial_id, objective', 'value', 'value_type')}"
        )
        return [
            (update, [state, self.time(ended), *parameters]),
            *(
                (insert, [i, None if value in _TYPES else value, _type(value), *by_us])
                for i, value in enumerate(values or ())
            ),
            *(
                self._attr("trial_user_attributes", key, value, done, by_us)
                for key, value in attrs.items()
            ),
            (f"select trial_id from trials where {done}", by_us),
        ]

    def running(self) -> Statement:
        """The running trials' user attributes: `trial_id, number, key, value`."""
        sql = (
            f"select t.trial_id, t.number, a.{self.key}, a.value_json from trials t"
            " join trial_user_attributes a on a.trial_id = t.trial_id"
            " where t.study_id = ? and t.state = 'RUNNING'"
        )
        return sql, [self.study_id]

    def requeue(self, trial_id: int, state: str, ended: datetime | None) -> Statement:
        """Gives a running trial back to the queue, or ends it."""
        sql = "update trials set state = ?, datetime_complete = ? where trial_id = ?"
        return f"{sql} and state = 'RUNNING'", [
            state,
            self.time(ended),
            trial_id,
        ]

    # The study's own attributes

    def keep_study_attr(self, key: str, value: object) -> Statement:
        """Keeps a system attribute of the study."""
        sql = (
            f"insert into study_system_attributes (study_id, {self.key}, value_json)"
            f" values (?, ?, ?) {self.upsert('study_id, key', 'value_json')}"
        )
        return sql, [self.study_id, key, json.dumps(value)]

    def study_attr(self, key: str) -> Statement:
        """One system attribute of the study."""
        sql = f"select value_json from study_system_attributes where study_id = ? and {self.key}"
        return f"{sql} = ?", [self.study_id, key]

    def study_attrs(self, prefix: str) -> Statement:
        """The study's system attributes whose keys begin alike."""
        sql = f"select value_json from study_system_attributes where study_id = ? and {self.key}"
        return f"{sql} like ?", [self.study_id, f"{prefix}%"]


def _type(value: float) -> str:
    return _TYPES.get(value, "FINITE")
