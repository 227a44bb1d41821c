"""The questions about a study, in the words of PostgreSQL, MariaDB/MySQL and SQLite; asks none.

The tables are those of Optuna's schema v3.2.0.a and our own. What a study says comes as rows of one
shape, so that one statement can answer several questions:
`(kind, trial_id, at, number, word, text)`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from hpoctl.record import WorkerRecord
from hpoctl.study.database import Statement
from hpoctl.study.dialect import Dialect
from hpoctl.study.protocol import Claim, Outcome


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
HELD = "trial_id = ? and attempt = ? and outcome is null"


@dataclass(frozen=True, slots=True)
class Questions(Dialect):
    """The questions about one study in one dialect; where it is a population, so many members."""

    study_id: int
    population: int = 0

    def whole(
        self,
        source: str,
        parameters: Sequence[object],
        *,
        before: str = "",
        parts: Parts = EVERYTHING,
        more: str = "",
        claim: bool = False,
    ) -> Statement:
        """The rows of the trials that `source` selects: their id, number and state.

        With `claim` also an attempt and a root, which stand in a trial's row as number and text.
        """
        attempt, root = (
            (f"attempt{self.as_number}", self.text("root")) if claim else (self.null, "null")
        )
        join = "join c on c.trial_id ="
        rows = [f"select 'trial', trial_id, number, {attempt}, {self.text('state')}, {root} from c"]
        if parts.params:
            rows.append(
                "select 'param', p.trial_id, p.param_id, p.param_value, p.param_name,"
                f" p.distribution_json from trial_params p {join} p.trial_id"
            )
        if parts.values:
            rows.append(
                "select 'value', v.trial_id, v.objective, v.value,"
                f" {self.text('v.value_type')}, null from trial_values v {join} v.trial_id"
            )
        if parts.attrs:
            rows.append(
                f"select 'attr', a.trial_id, 0, {self.null}, a.{self.key}, a.value_json"
                f" from trial_system_attributes a {join} a.trial_id"
            )
        if parts.steps:
            states = ", ".join(f"'{state}'" for state in parts.steps)
            rows.append(
                "select 'step', s.trial_id, s.step, s.intermediate_value,"
                f" {self.text('s.intermediate_value_type')}, null"
                f" from trial_intermediate_values s {join} s.trial_id where c.state in ({states})"
            )
        return f"with {before}c as ({source}) {' union all '.join(rows)}{more}", parameters

    def first_waiting(self, after: int) -> Statement:
        """The first waiting trial whose id is greater than `after`, if it may begin."""
        return f"select trial_id {self.waits_first}", [self.study_id, after]

    @property
    def waits_first(self) -> str:
        """From where and how, for a `select trial_id`."""
        ready = ""
        if self.population:  # see `population.is_ready`
            ready = (
                f" and (number < {self.population} or number in"
                f" (select p.number + {self.population} from trials p where"
                f" p.study_id = {self.study_id} and p.state in ('COMPLETE', 'PRUNED', 'FAIL')))"
            )
        return (
            f"from trials where study_id = ? and state = 'WAITING' and trial_id > ?{ready}"
            " order by trial_id limit 1"
        )

    def trial(self, trial_id: int) -> Statement:
        """The rows of one trial."""
        return self.whole(
            "select trial_id, number, state from trials where trial_id = ?", [trial_id]
        )

    def everything(self) -> Statement:
        """The rows of all trials."""
        source = "select trial_id, number, state from trials where study_id = ?"
        return self.whole(source, [self.study_id])

    def user_attrs(self) -> Statement:
        """All trials' user attributes: `trial_id, key, value`."""
        sql = (
            f"select a.trial_id, a.{self.key}, a.value_json from trial_user_attributes a"
            " join trials t on t.trial_id = a.trial_id where t.study_id = ?"
        )
        return sql, [self.study_id]

    def attempts(self) -> Statement:
        """All claims of all trials, those of a trial in their order."""
        sql = (
            "select a.trial_id, a.attempt, a.root, a.task, a.node, a.gpus, a.outcome, a.seed,"
            " a.late, a.cause from hpoctl_attempts a join trials t on t.trial_id = a.trial_id"
            " where t.study_id = ? order by a.trial_id, a.attempt"
        )
        return sql, [self.study_id]

    def workers(self) -> Statement:
        """All workers: `record, life`, and the number of the trial that it holds or null."""
        sql = (
            "select w.record, w.life, h.number from hpoctl_workers w left join"
            " (select a.task, a.life, t.number from trials t join hpoctl_attempts a"
            " on a.trial_id = t.trial_id and a.outcome is null"
            " where t.study_id = ? and t.state = 'RUNNING') h"
            " on h.task = w.task and h.life = w.life where w.study_id = ?"
        )
        return sql, [self.study_id, self.study_id]

    def size(self) -> Statement:
        """How many trials there are."""
        return "select count(*) from trials where study_id = ?", [self.study_id]

    def repeated(self) -> Statement:
        """The trials that others repeat: `number`, the last one's number, how many they are."""
        sql = (
            "select a.root, max(t.number), count(distinct t.trial_id) from trials t"
            " join hpoctl_attempts a on a.trial_id = t.trial_id"
            " where t.study_id = ? and a.root <> t.number group by a.root"
        )
        return sql, [self.study_id]

    def running(self) -> Statement:
        """The trials that our workers hold: `trial_id, number, attempt, task, life, losses`."""
        sql = (
            "select t.trial_id, t.number, a.attempt, a.task, a.life,"
            " (select count(*) from hpoctl_attempts b where b.trial_id = t.trial_id"
            f" and b.outcome = '{Outcome.LOST}') from trials t"
            " join hpoctl_attempts a on a.trial_id = t.trial_id and a.outcome is null"
            " where t.study_id = ? and t.state = 'RUNNING' order by t.number"
        )
        return sql, [self.study_id]

    def life(self, worker: WorkerRecord) -> Statement:
        """The life that a worker signed on with."""
        sql = "select max(life) from hpoctl_workers where study_id = ? and task = ?"
        return f"{sql} and started_at = ? having max(life) > 0", [
            self.study_id,
            worker.task,
            worker.started_at,
        ]

    def study_attr(self, key: str) -> Statement:
        """One system attribute of the study."""
        sql = f"select value_json from study_system_attributes where study_id = ? and {self.key}"
        return f"{sql} = ?", [self.study_id, key]

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
        held: Claim | None = None,
    ) -> Statement:
        """The rows of trials with news since `marks`, of those `open_`, and not of those `known`.

        A row `mark` for each source of news says where to go on, and a row `held` that a claim
        still holds its trial.
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
        if held is not None:
            sql, words = self.is_held(held)
            newest, parameters = f"{newest} union all {sql}", [*parameters, *words]
        ids = f"ids as ({' union '.join(sources)}), "
        return self.whole(source, parameters, before=ids, parts=parts, more=newest)

    def is_held(self, claim: Claim) -> Statement:
        """One row `held` if the trial is still this claim's."""
        return (
            f"select 'held', trial_id, 0, {self.null}, null, null from hpoctl_attempts"
            f" where {HELD}",
            [claim.trial_id, claim.attempt],
        )
