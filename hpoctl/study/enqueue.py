"""Adds trials to the queue of a study in a database: all or none, one caller after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hpoctl.errors import StudyError
from hpoctl.space import Params, SearchSpace
from hpoctl.study import succession, translate
from hpoctl.study.connect import named_error
from hpoctl.study.database import Database
from hpoctl.study.location import Kind
from hpoctl.study.statements import Statements


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """A trial to queue: its point, and the number of the trial that it repeats, if any."""

    point: Params
    repeats: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """What a study holds while nobody else can add to it.

    `last` gives for a trial that was repeated the number of its last repetition; `retries` counts
    all repetitions.
    """

    size: int
    retries: int
    last: Mapping[int, int]


def enqueue(
    database: Database,
    sql: Statements,
    space: SearchSpace,
    choose: Callable[[Queued], Sequence[Slot]],
) -> list[int]:
    """Queues what `choose` makes of what is there; the numbers of those, on from the last trial."""
    ask = database.ask
    try:
        ask(("begin immediate" if database.location.kind is Kind.SQLITE else "begin", ()))
        # The lock under which Optuna itself numbers trials.
        lock = f"select study_id from studies where study_id = ?{sql.for_update}"
        ask((lock, [sql.study_id]))
        repeated, size = ask(sql.repeated()), int(ask(sql.size())[0][0])
        there = Queued(
            size=size,
            retries=sum(int(count) for _, _, count in repeated),
            last={root: last for root, last, _ in repeated},
        )
        slots = choose(there)
        _insert(database, sql, space, size, slots)
        ask(("commit", ()))
        for statement in sql.count_rows() if slots else ():
            ask(statement)
    except StudyError:
        raise
    except Exception as wrong:  # each driver has its own tree of errors
        raise named_error(database.location, wrong) from wrong
    finally:
        database.rest()
    return list(range(size, size + len(slots)))


def _insert(
    database: Database, sql: Statements, space: SearchSpace, first: int, slots: Sequence[Slot]
) -> None:
    encode = translate.encoder(space)
    numbered = list(enumerate(slots, first))
    rows = [(number, sql.study_id, "WAITING") for number, _ in numbered]
    database.insert("trials (number, study_id, state)", rows)
    new = "select number, trial_id from trials where study_id = ? and number >= ?"
    ids = dict(tuple(row) for row in database.ask((new, [sql.study_id, first])))
    database.insert(
        "trial_params (trial_id, param_name, param_value, distribution_json)",
        [
            (ids[number], name, *encode(name, value))
            for number, slot in numbered
            for name, value in slot.point.items()
        ],
    )
    for number, slot in numbered:
        if slot.repeats is not None:
            database.ask(sql.inherit(slot.repeats, ids[number]))
            database.ask(succession.inherit(sql, slot.repeats, ids[number]))
