"""Reads a study for the login node: a few aggregate questions, no Optuna, no SQLAlchemy.

Optuna's tables are not a public interface: the schema's version, which Optuna itself stores, is
checked, and the tests hold every answer against Optuna's own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

from hpoctl.errors import StudyError
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerRecord
from hpoctl.space import Params, Value
from hpoctl.study.connect import Connection, connect, named_error
from hpoctl.study.location import Kind, Location
from hpoctl.study.past import Attempts, read_bad_nodes, read_stop
from hpoctl.study.protocol import CONSTRAINT_KEY
from hpoctl.study.replay import Replay, Trial
from hpoctl.study.rows import Questions
from hpoctl.study.tables import Tables

_SCHEMA = "v3.2.0.a"
_WORKER_KEY = "hpoctl:worker:"
_STATES = {
    "RUNNING": TrialState.RUNNING,
    "COMPLETE": TrialState.COMPLETE,
    "PRUNED": TrialState.PRUNED,
    "FAIL": TrialState.FAILED,
    "WAITING": TrialState.WAITING,
}
_MAY_VIOLATE = ("COMPLETE", "PRUNED")


class UnknownSchema(StudyError):
    """The database was made by an Optuna whose tables this module has not been tested with."""


def summarize(location: Location, study: str) -> Summary:
    """The study at a glance. Raises StudyError, and UnknownSchema where Optuna must be asked."""
    if location.kind is Kind.JOURNAL:
        return _summarize_journal(location, study)
    with closing(_connect(location)) as connection:
        return _summarize_database(_Reader(connection, location), study)


def _connect(location: Location) -> Connection:
    try:
        return connect(location)
    except StudyError:
        raise
    except Exception as wrong:  # each driver has its own tree of errors
        raise named_error(location, wrong) from wrong


class _Reader:
    """Asks questions in the common part of three dialects."""

    def __init__(self, connection: Connection, location: Location) -> None:
        self.location = location
        self._connection = connection
        self._mark = "?" if location.kind is Kind.SQLITE else "%s"

    def rows(self, question: str, *parameters: object) -> Sequence[Sequence[Any]]:
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(question.replace("?", self._mark), parameters)
            return cursor.fetchall()


def _summarize_database(reader: _Reader, study: str) -> Summary:
    study_id = _study_id(reader, study)
    counts = reader.rows(
        "select state, count(*), min(trial_id), max(trial_id) from trials"
        " where study_id = ? group by state",
        study_id,
    )
    sql, words = Attempts(reader.location.kind, study_id).attrs()
    attrs = {key: json.loads(text) for key, text in reader.rows(sql, *words)}
    complete = next(((low, high) for state, _, low, high in counts if state == "COMPLETE"), None)
    ended = [(int(low), int(high)) for state, _, low, high in counts if state in _MAY_VIOLATE]
    infeasible = _count_infeasible(reader, study_id, ended)
    return Summary(
        counts=_all_states({_STATES[state]: count for state, count, _, _ in counts}),
        best=complete and _best(reader, study_id, *complete, limited=infeasible > 0),
        workers=_workers_of(reader, study_id),
        stop=read_stop(attrs),
        bad_nodes=read_bad_nodes(attrs),
        infeasible=infeasible,
    )


def _count_infeasible(reader: _Reader, study_id: int, ended: Sequence[tuple[int, int]]) -> int:
    """How many of the trials that ended violate a constraint."""
    if not ended:
        return 0
    low, high = min(low for low, _ in ended), max(high for _, high in ended)
    violators, words = _violators(reader, low, high)
    [[count]] = reader.rows(
        f"select count(*) from ({violators}) x join trials t on t.trial_id = x.trial_id"
        " where t.study_id = ? and t.state in ('COMPLETE', 'PRUNED')",
        *words,
        study_id,
    )
    return int(count)


def _violators(reader: _Reader, low: int, high: int) -> tuple[str, Sequence[object]]:
    """The trials of an id from `low` to `high` with a constraint above 0, which is kept as JSON."""
    key = Questions(reader.location.kind, 0).key
    sql = (
        "select distinct s.trial_id from trial_system_attributes s where s.trial_id between ? and ?"
        f" and s.{key} like ? and s.value_json not like ? and s.value_json not in ('0', '0.0')"
    )
    return sql, (low, high, f"{CONSTRAINT_KEY}%", "-%")


def _workers_of(reader: _Reader, study_id: int) -> tuple[WorkerRecord, ...]:
    kind = reader.location.kind
    if not reader.rows(Tables(kind).has_tables()[0])[0][0]:  # a study of Optuna alone
        return ()
    sql, words = Questions(kind, study_id).workers()
    return _workers(
        {**json.loads(text), "life": life, "trial": trial}
        for text, life, trial in reader.rows(sql, *words)
    )


def _study_id(reader: _Reader, study: str) -> int:
    try:
        version = reader.rows("select version_num from alembic_version")
    except Exception as wrong:  # no such table, in three drivers' words
        raise StudyError(f"{reader.location}: holds no study yet") from wrong
    if [tuple(row) for row in version] != [(_SCHEMA,)]:
        raise UnknownSchema(f"{reader.location}: Optuna's schema is not {_SCHEMA}")
    found = reader.rows("select study_id from studies where study_name = ?", study)
    if not found:
        raise StudyError(f"{reader.location}: no study '{study}': was it deleted?")
    return int(found[0][0])


def _best(
    reader: _Reader, study_id: int, low: int, high: int, *, limited: bool
) -> TrialRecord | None:
    """The best complete trial, of an id from `low` to `high`; None where several metrics are.

    Where it is `limited`, some trials violate a constraint: they are put aside before any is
    ranked, as a constraint is there to be hit by what would be the best ones.
    """
    directions = reader.rows("select direction from study_directions where study_id = ?", study_id)
    if len(directions) != 1:
        return None
    down = directions[0][0] == "MINIMIZE"
    first, last, order = ("INF_NEG", "INF_POS", "asc") if down else ("INF_POS", "INF_NEG", "desc")
    rank = f"case v.value_type when '{first}' then 0 when '{last}' then 2 else 1 end"
    rank += f", v.value {order}, v.trial_id"
    # Values of other studies and of pruned trials stand between ours, but rarely ahead of ours by
    # a hundred: to join all values costs MariaDB ten times what it costs to sort them.
    aside, only = "", ""
    words: Sequence[object] = ()
    if limited:
        violators, words = _violators(reader, low, high)
        aside = f" left join ({violators}) x on x.trial_id = v.trial_id"
        only = "x.trial_id is null and "
    for among in (" limit 100", ""):
        found = reader.rows(
            "select t.trial_id, t.number, v.value, v.value_type from"
            f" (select v.trial_id, v.value, v.value_type from trial_values v{aside}"
            f" where {only}v.objective = 0 and v.trial_id between ? and ? order by {rank}{among}) v"
            " join trials t on t.trial_id = v.trial_id"
            f" where t.study_id = ? and t.state = 'COMPLETE' order by {rank} limit 1",
            *words,
            low,
            high,
            study_id,
        )
        if found:
            break
    if not found:
        return None
    trial_id, number, value, kind = found[0]
    params = reader.rows(
        "select param_name, param_value, distribution_json from trial_params"
        " where trial_id = ? order by param_id",
        trial_id,
    )
    infinite = {"INF_POS": math.inf, "INF_NEG": -math.inf}
    decoded = {name: _decode(internal, json.loads(text)) for name, internal, text in params}
    key = Questions(reader.location.kind, study_id).key
    attrs = reader.rows(
        f"select {key}, value_json from trial_user_attributes where trial_id = ?", trial_id
    )
    recorded = {name: json.loads(text) for name, text in attrs}
    return _as_record(number, (infinite.get(kind, value),), decoded, recorded)


def _decode(internal: float, distribution: Mapping[str, Any]) -> Value:
    """A parameter from the number and the distribution that Optuna stores."""
    match distribution["name"]:
        case "CategoricalDistribution":
            choice: Value = distribution["attributes"]["choices"][int(internal)]
            return choice
        case "IntDistribution":
            return int(internal)
        case _:
            return float(internal)


def _workers(values: Iterable[Mapping[str, Any]]) -> tuple[WorkerRecord, ...]:
    workers = [WorkerRecord(**value) for value in values]
    return tuple(sorted(workers, key=lambda worker: (worker.started_at, worker.task, worker.life)))


def _all_states(counts: Mapping[TrialState, int]) -> dict[TrialState, int]:
    return {state: int(counts.get(state, 0)) for state in TrialState}


def _summarize_journal(location: Location, study: str) -> Summary:
    try:
        replay = Replay(location.path).read()
    except OSError as wrong:
        raise StudyError(f"{location}: {wrong.strerror}") from wrong
    if study not in replay.live:
        raise StudyError(f"{location}: no study '{study}': was it deleted?")
    study_id, directions = replay.live[study]
    attrs = replay.attrs.get(study_id, {})
    mine = [trial for trial in replay.trials if trial.study_id == study_id]
    held = {
        (trial.holder.get("task"), trial.holder.get("life")): number
        for number, trial in enumerate(mine)
        if trial.state == "RUNNING"
    }
    return Summary(
        counts=_all_states(Counter(_STATES[trial.state] for trial in mine)),
        best=_best_in_journal(replay, mine, directions),
        workers=_workers(
            {**said, "trial": held.get((said["task"], said["life"]))}
            for key, said in attrs.items()
            if key.startswith(_WORKER_KEY)
        ),
        stop=read_stop(attrs),
        bad_nodes=read_bad_nodes(attrs),
        infeasible=sum(t.infeasible and t.state in _MAY_VIOLATE for t in mine),
    )


def _best_in_journal(
    replay: Replay, mine: Sequence[Trial], directions: Sequence[int]
) -> TrialRecord | None:
    complete = [
        (values[0], number)
        for number, trial in enumerate(mine)
        if trial.state == "COMPLETE"
        and not trial.infeasible
        and (values := json.loads(trial.values))
    ]
    if len(directions) != 1 or not complete:
        return None
    sign = 1 if directions[0] == 1 else -1
    value, number = min(complete, key=lambda one: (sign * one[0], one[1]))
    stored, attrs = replay.details(mine[number])
    params = {name: _decode(at, json.loads(text)) for name, (at, text) in stored.items()}
    return _as_record(number, (value,), params, attrs)


def _as_record(
    number: int, values: tuple[float, ...], params: Params, attrs: Mapping[str, object]
) -> TrialRecord:
    """The best trial, with the numbers that the objective returned besides."""
    numbers = {name: value for name, value in attrs.items() if isinstance(value, float)}
    return TrialRecord(
        number=number, state=TrialState.COMPLETE, values=values, params=params, attrs=numbers
    )
