"""Connects to a study's database, by its driver or for SQLAlchemy. The only door to both.

A driver is loaded when it is first needed: the login node has use for one of them at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from hpoctl.errors import StudyError
from hpoctl.study.location import Kind, Location

Rows = Sequence[Sequence[Any]]


class Cursor(Protocol):
    """The common part of three drivers' cursors."""

    @property
    def description(self) -> object: ...
    def execute(self, sql: str, parameters: Sequence[object], /) -> object: ...
    def fetchall(self) -> Rows: ...
    def close(self) -> object: ...


class Connection(Protocol):
    """The common part of three drivers' connections."""

    def cursor(self) -> Cursor: ...
    def close(self) -> object: ...


def connect(location: Location, *, writing: bool = False) -> Connection:
    """A new connection in which every statement commits. Raises StudyError, and the driver's own.

    `writing` lets MySQL take several statements at once and lets SQLite write.
    """
    try:
        match location.kind:
            case Kind.SQLITE:
                return _sqlite(location, "rw" if writing else "ro")
            case Kind.POSTGRESQL:
                return _postgresql(location)
            case _:
                return _mysql(location, writing=writing)
    except ModuleNotFoundError as wrong:
        raise missing_driver(location, wrong) from wrong


def missing_driver(location: Location, wrong: ModuleNotFoundError) -> StudyError:
    """Names the package that brings a driver."""
    return StudyError(f"{location}: pip install 'hpoctl[mysql]' brings {wrong.name}")


def named_error(location: Location, wrong: BaseException) -> StudyError:
    """What a driver complains of, in one line that names the database and no password."""
    text = str(wrong).partition("(Background on this error")[0]
    full = any(words in text for words in _FULL)
    hint = ": all its connections are taken: raise max_connections, or run fewer workers"
    return StudyError(f"{location}: {' '.join(text.split())}{hint * full}")


def true_cause(wrong: BaseException) -> BaseException | None:
    """What a database said under SQLAlchemy's and Optuna's errors; None if it is none of these."""
    from sqlalchemy.exc import SQLAlchemyError

    for error in (wrong, wrong.__cause__):
        if isinstance(error, SQLAlchemyError):
            cause: BaseException = getattr(error, "orig", None) or error
            return cause
    return wrong if type(wrong).__name__ == "StorageInternalError" else None


def is_transient(location: Location, wrong: Exception) -> bool:
    """Whether the same statement may well succeed later: the server went away, or a deadlock."""
    match location.kind:
        case Kind.POSTGRESQL:
            import psycopg2

            passing = isinstance(wrong, psycopg2.OperationalError | psycopg2.InterfaceError)
            return passing and not any(words in str(wrong) for words in _FINAL)
        case Kind.MYSQL:
            import pymysql

            if isinstance(wrong, pymysql.err.InterfaceError):
                return True
            return isinstance(wrong, pymysql.err.OperationalError) and wrong.args[0] in _PASSING
        case _:
            import sqlite3

            passing = "locked" in str(wrong) or "disk is full" in str(wrong)
            return isinstance(wrong, sqlite3.OperationalError) and passing


_FULL = ("too many clients", "remaining connection slots", "Too many connections")
# What PostgreSQL says of a connection that it will refuse again.
_FINAL = ("authentication failed", "no password supplied", "pg_hba.conf", "does not exist")
# Too many connections, shutdown, lock wait, deadlock; cannot connect, gone away, lost, refused.
_PASSING = (1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 1927)


def file_descriptor(connection: Connection) -> int | None:
    """The socket of a connection; None where it is not known."""
    if hasattr(connection, "fileno"):
        number: int = connection.fileno()
        return number
    socket = getattr(connection, "_sock", None)  # pymysql has no public word for it
    return None if socket is None else int(socket.fileno())


def engine_options(location: Location) -> dict[str, object]:
    """How SQLAlchemy connects: holds no connection; SQLite waits for its lock."""
    from sqlalchemy.pool import NullPool

    options: dict[str, object] = {"poolclass": NullPool}
    if location.kind is Kind.SQLITE:
        options["connect_args"] = {"timeout": 60}
    if location.kind is Kind.MYSQL:  # its default locks the gaps between rows: claims deadlock
        options["isolation_level"] = "READ COMMITTED"
    return options


def engine_url(location: Location) -> str:
    """The location as SQLAlchemy wants it."""
    return f"sqlite:///{location.url}" if location.kind is Kind.SQLITE else location.url


def _sqlite(location: Location, mode: str) -> Connection:
    import sqlite3

    if not location.path.exists():
        raise StudyError(f"{location}: no such file: was the study deleted?")
    uri = f"{location.path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)


def _postgresql(location: Location) -> Connection:
    import psycopg2

    scheme, _, rest = location.url.partition("://")
    connection = psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=10)
    connection.autocommit = True
    return connection


def _mysql(location: Location, *, writing: bool) -> Connection:
    import pymysql
    from pymysql.constants import CLIENT

    url = urlsplit(location.url)
    options: dict[str, Any] = dict(parse_qsl(url.query))
    if url.username:
        options["user"] = unquote(url.username)
    if url.password:
        options["password"] = unquote(url.password)
    if writing:
        options["client_flag"] = CLIENT.MULTI_STATEMENTS
        options["init_command"] = "set session transaction isolation level read committed"
    connection: Connection = pymysql.connect(
        host=url.hostname,
        port=url.port or 3306,
        database=url.path.removeprefix("/"),
        connect_timeout=10,
        autocommit=True,
        **options,
    )
    return connection
