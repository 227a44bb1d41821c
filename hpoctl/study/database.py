"""Runs statements on a study's database, several in one round trip, and tries again on an outage.

Knows connections, not what the statements mean; those stand in `statements`.
"""

from __future__ import annotations

import logging
import os
import random
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from typing import Any

from hpoctl.errors import StudyError
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
LONGEST_PAUSE_S = 15.0


class Database:
    """One connection, opened when it is needed, and again after an outage."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._connection: Connection | None = None
        self._inherited: Connection | None = None
        self._answered = False
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _forget(this()))

    def run(self, *statements: Statement, again: Sequence[Statement] | None = None) -> Rows:
        """Runs statements in one transaction and one round trip; the rows of the last question.

        After an outage they are run again, so they must be harmless to repeat; where they are not,
        `again` asks first what they have done, and its rows, if there are any, are the answer.
        Raises StudyError with the driver's words where an outage lasts, or at first connection.
        """
        return self._patiently(
            lambda: self._run(statements),
            None if again is None else lambda: self._run(again) or self._run(statements),
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

        return self._patiently(whole, None)

    def _patiently(self, action: Callable[[], Rows], again: Callable[[], Rows] | None) -> Rows:
        patience = time.monotonic() + PATIENCE_S
        pause = 0.05
        while True:
            try:
                rows = action()
            except StudyError:
                raise
            except Exception as wrong:  # each driver has its own tree of errors
                self.rest()
                hopeless = not self._answered or time.monotonic() > patience
                if hopeless or not is_transient(self.location, wrong):
                    raise named_error(self.location, wrong) from wrong
                log.info("%s: %s: trying again", self.location, " ".join(str(wrong).split()))
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
            marks = ", ".join("?" for _ in whole[0])
            if self.location.kind is Kind.POSTGRESQL:
                from psycopg2.extras import execute_values

                execute_values(many, f"insert into {table} values %s", whole, page_size=2_000)
            else:
                many.executemany(self._marked(f"insert into {table} values ({marks})"), whole)

    def connection(self) -> Connection:
        """The connection itself, for what is no single round trip."""
        if self._connection is None:
            self._connection = connect(self.location, writing=True)
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
            parts = [_text(mogrify.mogrify(self._marked(sql), args)) for sql, args in statements]
            if self.location.kind is Kind.MYSQL:
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
            cursor.execute(self._marked(sql), parameters)
            return cursor.fetchall() if cursor.description else ()

    def _marked(self, sql: str) -> str:
        return sql if self.location.kind is Kind.SQLITE else sql.replace("?", "%s")


def _text(sql: bytes | str) -> str:
    return sql.decode() if isinstance(sql, bytes) else sql


def _forget(database: Database | None) -> None:
    if database is not None:
        database.forget_in_child()
