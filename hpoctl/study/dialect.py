"""What PostgreSQL, MariaDB/MySQL and SQLite say differently."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from hpoctl.study.database import Statement
from hpoctl.study.location import Kind

_TYPES = {math.inf: "INF_POS", -math.inf: "INF_NEG"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one kind of database."""

    kind: Kind

    def time(self, at: float) -> object:
        """A moment as Optuna 5 stores it: UTC without its zone, as exact as the column keeps it."""
        moment = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
        if self.kind is Kind.SQLITE:  # SQLAlchemy's text
            return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
        return moment.replace(microsecond=0) if self.kind is Kind.MYSQL else moment

    @property
    def key(self) -> str:
        """The column `key`, which is a word of its own in MySQL."""
        return "`key`" if self.kind is Kind.MYSQL else "key"

    def upsert(self, unique: str, *columns: str) -> str:
        """What an insert does where the `unique` columns are there already."""
        if self.kind is Kind.MYSQL:
            return "on duplicate key update " + ", ".join(f"{c} = values({c})" for c in columns)
        updates = ", ".join(f"{column} = excluded.{column}" for column in columns)
        return f"on conflict ({unique}) do update set {updates}"

    @property
    def number(self) -> str:
        """The mark of a number where PostgreSQL cannot know that it is one."""
        return "?::float8" if self.kind is Kind.POSTGRESQL else "?"

    @property
    def whole_number(self) -> str:
        """The mark of a whole number where PostgreSQL cannot know that it is one."""
        return "?::int" if self.kind is Kind.POSTGRESQL else "?"

    @property
    def as_number(self) -> str:
        """Turns a whole number into one of the type that `null` has."""
        return "::float8" if self.kind is Kind.POSTGRESQL else ""

    @property
    def null(self) -> str:
        """No number."""
        return "null::float8" if self.kind is Kind.POSTGRESQL else "null"

    def text(self, column: str) -> str:
        """An enumeration's or a number's column as text."""
        return f"{column}::text" if self.kind is Kind.POSTGRESQL else column

    @property
    def for_update(self) -> str:
        """Locks the rows that a question found; SQLite locks the whole file before."""
        return "" if self.kind is Kind.SQLITE else " for update"

    def enum(self, name: str) -> str:
        """The mark of a word of an enumeration."""
        return f"?::{name}" if self.kind is Kind.POSTGRESQL else "?"

    def count_rows(self) -> list[Statement]:
        """Lets the planner count: else it sorts the whole new queue at every claim."""
        word = "analyze table" if self.kind is Kind.MYSQL else "analyze"
        return [(f"{word} {table}", ()) for table in ("trials", "trial_params")]

    def into_attrs(self, of: str) -> str:
        """An insert of a `user` or `system` attribute of each trial of what follows."""
        return (
            f"insert into trial_{of}_attributes (trial_id, {self.key}, value_json)"
            " select trial_id, ?, ? from"
        )

    def keep_study_attr(self, study_id: int, key: str, value: object) -> Statement:
        """Keeps a system attribute of a study."""
        sql = (
            f"insert into study_system_attributes (study_id, {self.key}, value_json)"
            f" values (?, ?, ?) {self.upsert('study_id, key', 'value_json')}"
        )
        return sql, [study_id, key, json.dumps(value)]


def stored(value: float) -> tuple[float | None, str]:
    """A value as Optuna's columns hold it: one that is not finite by its type."""
    kind = "NAN" if math.isnan(value) else _TYPES.get(value, "FINITE")
    return (value if kind == "FINITE" else None), kind
