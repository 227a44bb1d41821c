"""The tables that hpoctl keeps beside Optuna's, and their versions.

`hpoctl_workers` has a row for each life of a worker. `hpoctl_attempts` has a row for each claim of
a trial, for ever: who, where, when, and how it ended; the one without an outcome holds the trial.
Migrations run when a study is made, or opened by a newer hpoctl, under a lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpoctl.errors import StudyError
from hpoctl.study.connect import Rows
from hpoctl.study.database import Database, Statement
from hpoctl.study.dialect import Dialect
from hpoctl.study.location import Kind

VERSION = 3
_LOCK = 0x68706F63746C  # 'hpoctl', as PostgreSQL's advisory locks are numbers


@dataclass(frozen=True, slots=True)
class Tables(Dialect):
    """What makes our tables in one dialect."""

    def has_tables(self) -> Statement:
        """Whether any are there, in one row."""
        name = "hpoctl_version"
        sources = {
            Kind.POSTGRESQL: f"select to_regclass('{name}') is not null",
            Kind.MYSQL: "select count(*) from information_schema.tables where"
            f" table_schema = database() and table_name = '{name}'",
            Kind.SQLITE: f"select count(*) from sqlite_master where name = '{name}'",
        }
        return sources[self.kind], ()

    def version(self) -> Statement:
        """The version that is there, in one row; none where only Optuna's tables are."""
        return "select version from hpoctl_version", ()

    def migrate_from(self, version: int) -> Sequence[Statement]:
        """Leads from a version to the present one; harmless if some of it was done before."""
        steps: dict[int, Sequence[Statement]] = {1: self._to_2(), 2: ()}
        return [step for number in range(version, VERSION) for step in steps[number]]

    def _to_2(self) -> Sequence[Statement]:
        """Version 1 had no table, and an index of waiting trials only."""
        real = "double precision" if self.kind is Kind.POSTGRESQL else "double"
        options = " with (fillfactor = 50)" if self.kind is Kind.POSTGRESQL else ""
        if self.kind is Kind.MYSQL:
            options = " engine = InnoDB default charset = utf8mb4"
        tables = (
            "create table if not exists hpoctl_version (version int not null primary key)",
            "create table if not exists hpoctl_workers ("
            "study_id int not null, task varchar(160) not null, life int not null,"
            f" started_at {real} not null, record text not null,"
            " primary key (study_id, task, life),"
            " foreign key (study_id) references studies (study_id) on delete cascade"
            f"){options}",
            "create table if not exists hpoctl_attempts ("
            "trial_id int not null, attempt int not null, root int not null,"
            " task varchar(160) not null, life int not null, node varchar(255) not null,"
            f" gpus int not null, started_at {real} not null, ended_at {real},"
            " outcome varchar(16), seed bigint, late text, primary key (trial_id, attempt),"
            " foreign key (trial_id) references trials (trial_id) on delete cascade"
            f"){options}",
        )
        return [(sql, ()) for sql in tables]

    def has_cause(self) -> Statement:
        """One row if attempts have a cause, which version 3 added with its error."""
        sources = {
            Kind.POSTGRESQL: "information_schema.columns where table_schema = current_schema()",
            Kind.MYSQL: "information_schema.columns where table_schema = database()",
        }
        found = "table_name = 'hpoctl_attempts' and column_name = 'cause'"
        if self.kind is Kind.SQLITE:
            return "select 1 from pragma_table_info('hpoctl_attempts') where name = 'cause'", ()
        return f"select 1 from {sources[self.kind]} and {found}", ()

    def add_cause(self) -> Sequence[Statement]:
        """Adds the columns of version 3: the error first, as the cause says that both are there."""
        alter = "alter table hpoctl_attempts add column"
        return [(f"{alter} error text", ()), (f"{alter} cause varchar(16)", ())]

    def index(self) -> Statement:
        """Keeps claims cheap however many trials have ended, and finds those that run."""
        where = "" if self.kind is not Kind.POSTGRESQL else _OPEN
        return f"create index hpoctl_open on trials (study_id, state, trial_id){where}", ()

    def has_index(self, name: str) -> Statement:
        """One row if the index is there; MySQL knows no `if not exists` for one."""
        sources = {
            Kind.POSTGRESQL: "pg_indexes where schemaname = current_schema() and indexname",
            Kind.MYSQL: "information_schema.statistics where table_schema = database()"
            " and index_name",
            Kind.SQLITE: "sqlite_master where name",
        }
        return f"select 1 from {sources[self.kind]} = ? limit 1", [name]

    def drop_index(self, name: str) -> Statement:
        """Removes an index of an earlier version."""
        on = " on trials" if self.kind is Kind.MYSQL else ""
        return f"drop index {name}{on}", ()

    def forget(self, study_id: int) -> Sequence[Statement]:
        """Removes our rows about a study; SQLite does not follow `on delete cascade` by itself."""
        mine = "select trial_id from trials where study_id = ?"
        return [
            (f"delete from hpoctl_attempts where trial_id in ({mine})", [study_id]),
            ("delete from hpoctl_workers where study_id = ?", [study_id]),
        ]

    def lock(self) -> Statement:
        """Waits until nobody else migrates."""
        if self.kind is Kind.POSTGRESQL:
            return "select pg_advisory_lock(?)", [_LOCK]
        return "select get_lock('hpoctl', 60)", ()

    def unlock(self) -> Statement:
        """Lets the next one migrate."""
        if self.kind is Kind.POSTGRESQL:
            return "select pg_advisory_unlock(?)", [_LOCK]
        return "select release_lock('hpoctl')", ()


_OPEN = " where state in ('WAITING', 'RUNNING')"


def migrate(database: Database) -> None:
    """Makes our tables, or brings them to the present version. Raises StudyError if they are newer.

    Optuna's tables must be there.
    """
    tables = Tables(database.location.kind)
    if read_version(database, tables) == VERSION:
        return
    if database.location.kind is Kind.SQLITE:
        database.locked(lambda: _migrate(database, tables))
        return
    database.ask(tables.lock())
    try:
        _migrate(database, tables)
    finally:
        database.ask(tables.unlock())


def _migrate(database: Database, tables: Tables) -> Rows:
    version = read_version(database, tables)
    if version > VERSION:
        raise StudyError(
            f"{database.location}: its tables are of version {version} of hpoctl's, and this hpoctl"
            f" knows {VERSION}: pip install -U hpoctl"
        )
    for step in tables.migrate_from(version):
        database.ask(step)
    if not database.ask(tables.has_cause()):
        for step in tables.add_cause():
            database.ask(step)
    if not database.ask(tables.has_index("hpoctl_open")):
        database.ask(tables.index())
    if database.ask(tables.has_index("hpoctl_waiting")):
        database.ask(tables.drop_index("hpoctl_waiting"))
    if version < VERSION:
        database.ask(("delete from hpoctl_version", ()))
        database.ask(("insert into hpoctl_version (version) values (?)", [VERSION]))
    return ()


def forget(database: Database, study_id: int) -> None:
    """Removes our rows about a study, if our tables are there."""
    tables = Tables(database.location.kind)
    if read_version(database, tables) == VERSION:
        database.run(*tables.forget(study_id))
    database.rest()


def read_version(database: Database, tables: Tables) -> int:
    """The version of our tables in a database; 1 where there are none."""
    if not database.run(tables.has_tables())[0][0]:
        return 1
    found = database.run(tables.version())
    return int(found[0][0]) if found else 1
