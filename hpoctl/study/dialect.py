"""What PostgreSQL, MariaDB/MySQL and SQLite say differently."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from hpoctl.study.database import Statement
from hpoctl.study.location import Kind

# `derive_seed` in SQL: a claim writes its trial's number's seed before anybody knows the number.
SEED = {
    Kind.POSTGRESQL: "((('x' || substr(encode(sha256(convert_to(? || '/' || number, 'UTF8')),"
    " 'hex'), 1, 8))::bit(32)::bigint) >> 1)::text",
    Kind.MYSQL: "cast(conv(left(sha2(concat(?, '/', number), 256), 8), 16, 10) as unsigned) >> 1",
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """The words of one kind of database."""

    kind: Kind

    def now(self) -> datetime:
        """UTC without its zone, as Optuna 5 stores times, and as exact as the database keeps it."""
        now = datetime.now(UTC).replace(tzinfo=None)
        return now.replace(microsecond=0) if self.kind is Kind.MYSQL else now

    def time(self, moment: datetime | None) -> object:
        """A time as the driver wants it; SQLite keeps it as SQLAlchemy's text."""
        if self.kind is Kind.SQLITE and moment is not None:
            return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
        return moment

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
        """The mark of a number that the planner cannot guess."""
        return "?::float8" if self.kind is Kind.POSTGRESQL else "?"

    def enum(self, name: str) -> str:
        """The mark of a word of an enumeration."""
        return f"?::{name}" if self.kind is Kind.POSTGRESQL else "?"

    def index(self) -> Statement:
        """Keeps claims cheap however many trials have ended: an index of our own, made once."""
        columns, where = "study_id, trial_id", " where state = 'WAITING'"
        if self.kind is Kind.MYSQL:
            columns, where = "study_id, state, trial_id", ""
        return f"create index hpoctl_waiting on trials ({columns}){where}", ()

    def has_index(self) -> Statement:
        """One row if the index is there; MySQL knows no `if not exists` for one."""
        sources = {
            Kind.POSTGRESQL: "pg_indexes where schemaname = current_schema() and indexname",
            Kind.MYSQL: "information_schema.statistics where table_schema = database()"
            " and index_name",
            Kind.SQLITE: "sqlite_master where name",
        }
        return f"select 1 from {sources[self.kind]} = 'hpoctl_waiting' limit 1", ()

    def count_rows(self) -> list[Statement]:
        """Lets the planner count: else it sorts the whole new queue at every claim."""
        word = "analyze table" if self.kind is Kind.MYSQL else "analyze"
        return [(f"{word} {table}", ()) for table in ("trials", "trial_params")]
