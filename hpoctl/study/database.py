"""Runs statements on a study's database, several in one round trip, and tries again on an outage.

Knows connections, not what the statements mean; those stand in `statements`.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import Any

from hpoctl.errors import StudyError, Unreachable
from hpoctl.study.connect import (
    Connection,
    Rows,
    connect,
    file_descriptor,
    is_transient,
    named_error,
)
from hpoctl.study.location import Kind, Location

log = logging.getLogger(__name__)

Statement = tuple[str, Sequence[object]]
"""SQL with a `?` for each parameter, and the parameters. Its text holds no other `?` and no `%`."""

PATIENCE_S = 300.0  # how long an outage may last before a worker gives up
LONGEST_PAUSE_S = 5.0
REPORT_PATIENCE_S = 5.0  # the trial waits for the answer to its report, and its GPU with it


class Database:
    """One connection, opened when it is needed, and again after an outage.

    A `patient` one waits for its first connection too, as a worker does, whose GPU is granted
    already; without it a server that does not answer at first is an error at once.
    """

    def __init__(self, location: Location, *, patient: bool = False) -> None:
        self.location = location
        self._connection: Connection | None = None
        self._inherited: Connection | None = None
        self._plans: dict[str, str] = {}
        self._answered = patient
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(this()))

    def run(
        self,
        *statements: Statement,
        again: Sequence[Statement] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Rows:
        """Runs statements in one transaction and one round trip; the rows of the last question.

        After an outage they are run again, so they must be harmless to repeat; where they are not,
        `again` asks first what they have done, and its rows, if there are any, are the answer.
        Raises StudyError with the driver's words; Unreachable where an outage lasts for longer
        than `patience_s`.
        """
        return self._patiently(
            lambda: self._run(statements),
            None if again is None else lambda: self._run(again) or self._run(statements),
            patience_s,
        )

    def locked(self, action: Callable[[], Rows]) -> Rows:
        """Runs an action of several questions while nobody else writes; SQLite only."""

        def whole() -> Rows:
            self.ask(("begin immediate", ()))
            try:
                rows = action()
                self.ask(("commit", ()))
            except BaseException:
                self.rest()  # which rolls back
                raise
            return rows

        return self._patiently(whole, None, PATIENCE_S)

    def _patiently(
        self, action: Callable[[], Rows], again: Callable[[], Rows] | None, patience_s: float
    ) -> Rows:
        patience = time.monotonic() + patience_s
        pause, said = 0.05, ""
        while True:
            try:
                rows = action()
            except StudyError:
                raise
            except Exception as wrong:  # each driver has its own tree of errors
                self.rest()
                error = named_error(self.location, wrong)
                if not is_transient(self.location, wrong):
                    raise error from wrong
                if not self._answered or time.monotonic() > patience:
                    raise Unreachable(str(error)) from wrong
                if str(error) != said:  # once a cause, not once a try
                    log.info("%s: trying again for %.0f s", error, patience - time.monotonic())
                    said = str(error)
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)
                action = again or action
            else:
                self._answered = True
                return rows

    def insert(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        """Many rows within the caller's transaction; `table` is `name (column, …)`."""
        whole = [*rows]
        if not whole:
            return
        many: Any = self.connection().cursor()
        with closing(many):
            if self.location.kind is Kind.POSTGRESQL:
                many.copy_expert(f"copy {table} from stdin csv", _table(whole))
                return
            mark = "?" if self.location.kind is Kind.SQLITE else "%s"
            marks = ", ".join(mark for _ in whole[0])
            many.executemany(f"insert into {table} values ({marks})", whole)

    def connection(self) -> Connection:
        """The connection itself, for what is no single round trip."""
        if self._connection is None:
            self._connection, self._plans = connect(self.location, writing=True), {}
        return self._connection

    def ask(self, statement: Statement) -> Rows:
        """One statement within a transaction that the caller made."""
        return self._ask(self.connection(), statement)

    def rest(self) -> None:
        """Closes the connection; the next statement opens one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):  # it may be broken, which is why it is closed
                connection.close()

    def forget_in_child(self) -> None:
        """In a forked child: the inherited socket reaches nothing, and the worker's stays whole."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        number = None if self.location.kind is Kind.SQLITE else file_descriptor(connection)
        if number is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, number)
            os.close(nothing)
        self._inherited = connection  # not closed: a driver would say goodbye to the server

    def _run(self, statements: Sequence[Statement]) -> Rows:
        connection = self.connection()
        if len(statements) == 1:
            return self._ask(connection, statements[0])
        if self.location.kind is Kind.SQLITE:
            return self._run_locally(statements)
        with closing(connection.cursor()) as cursor:
            mogrify: Any = cursor
            parts = [
                _text(mogrify.mogrify(self._marked(connection, sql), args))
                for sql, args in statements
            ]
            writes = sum(not sql.startswith("select") for sql, _ in statements)
            if self.location.kind is Kind.MYSQL and writes > 1:
                parts = ["start transaction", *parts, "commit"]
            # PostgreSQL runs what comes in one message as one transaction.
            mogrify.execute("; ".join(parts))
            return self._last_rows(mogrify)

    def _run_locally(self, statements: Sequence[Statement]) -> Rows:
        self.ask(("begin immediate", ()))
        rows: Rows = ()
        for statement in statements:  # an error closes the connection, which rolls back
            rows = self.ask(statement)
        self.ask(("commit", ()))
        return rows

    def _last_rows(self, cursor: Any) -> Rows:
        rows: Rows = cursor.fetchall() if cursor.description else ()
        while self.location.kind is Kind.MYSQL and cursor.nextset():
            if cursor.description:
                rows = cursor.fetchall()
        return rows

    def _ask(self, connection: Connection, statement: Statement) -> Rows:
        sql, parameters = statement
        with closing(connection.cursor()) as cursor:
            cursor.execute(self._marked(connection, sql), parameters)
            return cursor.fetchall() if cursor.description else ()

    def _marked(self, connection: Connection, sql: str) -> str:
        """A statement with the driver's marks; one that PostgreSQL has planned before, by name."""
        match self.location.kind:
            case Kind.SQLITE:
                return sql
            case Kind.MYSQL:
                return _percent(sql)
            case _:
                return self._prepared(connection, sql)

    def _prepared(self, connection: Connection, sql: str) -> str:
        """Planning takes PostgreSQL as long as running: from its second use on it is spared."""
        if sql.partition(" ")[0] not in ("with", "select", "insert", "update"):
            return _percent(sql)
        name = self._plans.get(sql)
        if name is None:
            self._plans[sql] = ""
            return _percent(sql)
        marks = sql.count("?")
        if not name:
            name = self._plans[sql] = f"hpoctl_{sum(map(bool, self._plans.values()))}"
            pieces = sql.split("?")
            numbered = "".join(f"{piece}${i}" for i, piece in enumerate(pieces[:-1], 1))
            with closing(connection.cursor()) as cursor:
                cursor.execute(f"prepare {name} as {numbered}{pieces[-1]}", ())
        return f"execute {name}" + (f" ({', '.join(['%s'] * marks)})" if marks else "")


def _table(rows: Iterable[Sequence[object]]) -> io.StringIO:
    """Rows of numbers and words in a format of PostgreSQL's COPY."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    text.seek(0)
    return text


def _percent(sql: str) -> str:
    return sql.replace("?", "%s")


def _text(sql: bytes | str) -> str:
    return sql.decode() if isinstance(sql, bytes) else sql


def _forget(database: Database | None) -> None:
    if database is not None:
        database.forget_in_child()
