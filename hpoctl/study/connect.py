"""Connects to a study's database, by its driver or for SQLAlchemy. The only door to both.

A driver is loaded when it is first needed: the login node has use for one of them at most.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import unquote, urlsplit

from hpoctl.errors import StudyError
from hpoctl.study import parameters, secret_files
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
                connection = _postgresql(location)
                connection.autocommit = True
                return cast(Connection, connection)
            case _:
                return cast(Connection, _mysql(location, _flags(writing=writing)))
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


_FULL = (
    "too many clients",
    "remaining connection slots",
    "Too many connections",
    "too many connections for",  # a role or a database of PostgreSQL
    "max_user_connections",
)
# What PostgreSQL says of a connection that it will refuse again.
_FINAL = ("authentication failed", "no password supplied", "pg_hba.conf", "does not exist")
# Too many connections, of this user; shutdown, lock wait, deadlock; cannot connect, gone away,
# lost, killed, cut in an answer or a greeting.
_PASSING = (1040, 1203, 1226, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 1927, 1159, 1161, 2055)


def file_descriptor(connection: Connection) -> int | None:
    """The socket of a connection; None where it is not known."""
    if hasattr(connection, "fileno"):
        number: int = connection.fileno()
        return number
    socket = getattr(connection, "_sock", None)  # pymysql has no public word for it
    return None if socket is None else int(socket.fileno())


def engine_options(location: Location) -> dict[str, object]:
    """How SQLAlchemy connects: as hpoctl does, and holds no connection; SQLite waits for its lock.

    Its own reading of the URL would know neither ~/.my.cnf nor our words for TLS.
    """
    from sqlalchemy.pool import NullPool

    options: dict[str, object] = {"poolclass": NullPool}
    match location.kind:
        case Kind.SQLITE:
            options["connect_args"] = {"timeout": 60}
        case Kind.POSTGRESQL:
            options["creator"] = lambda: _postgresql(location)
        case _:  # its default isolation locks the gaps between rows: claims deadlock
            options["isolation_level"] = "READ COMMITTED"
            options["creator"] = lambda: _mysql(location, {"client_flag": _FOUND_ROWS})
    return options


_FOUND_ROWS = 2  # CLIENT.FOUND_ROWS, with which SQLAlchemy counts the rows of an update


def engine_url(location: Location) -> str:
    """The location as SQLAlchemy wants it."""
    return f"sqlite:///{location.url}" if location.kind is Kind.SQLITE else location.url


def _sqlite(location: Location, mode: str) -> Connection:
    import sqlite3

    if not location.path.exists():
        raise StudyError(f"{location}: no such file: was the study deleted?")
    uri = f"{location.path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=60, isolation_level=None)


def _postgresql(location: Location) -> Any:
    import psycopg2

    scheme, _, rest = location.url.partition("://")
    url = urlsplit(location.url)
    if url.password is None and "PGPASSWORD" not in os.environ:
        query = parameters.read(url.query, parameters.POSTGRESQL, location)
        secret_files.check_pgpass(str(query.get("passfile", "")), os.environ)
    return psycopg2.connect(f"{scheme.partition('+')[0]}://{rest}", connect_timeout=10)


def _flags(*, writing: bool) -> dict[str, Any]:
    from pymysql.constants import CLIENT

    flags: dict[str, Any] = {"autocommit": True}
    if writing:
        flags["client_flag"] = CLIENT.MULTI_STATEMENTS
        flags["init_command"] = "set session transaction isolation level read committed"
    return flags


def _mysql(location: Location, flags: Mapping[str, Any]) -> Any:
    import pymysql

    url = urlsplit(location.url)
    given = dict(parameters.read(url.query, parameters.MYSQL, location))
    own = secret_files.read_my_cnf()
    tls = {key: given.pop(key) for key in [*given] if key.startswith("ssl_")}
    user = unquote(url.username) if url.username else own.get("user")
    password = unquote(url.password) if url.password else own.get("password", "")
    return pymysql.connect(
        **{"connect_timeout": 10, **given, **flags},
        host=url.hostname,
        port=url.port or 3306,
        database=url.path.removeprefix("/"),
        user=user,
        password=password.encode(),  # PyMySQL itself would write it in Latin-1
        ssl=_tls(location, {**_tls_of(own), **tls}),
        ssl_disabled=bool(tls.get("ssl_disabled")),
    )


def _tls_of(own: Mapping[str, str]) -> dict[str, str | bool]:
    """~/.my.cnf's words for TLS as the URL's."""
    found: dict[str, str | bool] = {
        f"ssl_{part}": own[f"ssl-{part}"] for part in ("ca", "cert", "key") if f"ssl-{part}" in own
    }
    if "ssl-verify-server-cert" in own:
        checked = own["ssl-verify-server-cert"].lower() in ("1", "on", "true", "yes")
        found |= {"ssl_verify_cert": checked, "ssl_verify_identity": checked}
    return found


def _tls(location: Location, given: Mapping[str, Any]) -> Any:
    """The context of a TLS connection; None leaves it to PyMySQL, which encrypts if the server can.

    A CA that is named is used: the certificate and the host's name are checked by it, unless they
    are said not to. PyMySQL by itself would take any certificate.
    """
    if not given or given.get("ssl_disabled"):
        return None
    import ssl

    files = {key: Path(given[key]).expanduser() for key in _TLS_FILES if key in given}
    for key, path in files.items():
        if not path.is_file():
            raise StudyError(f"{location}: {key}: {path}: no such file")
    checked = given.get("ssl_verify_cert", "ssl_ca" in files)
    context = ssl.create_default_context(cafile=files.get("ssl_ca"))
    context.check_hostname = given.get("ssl_verify_identity", checked)
    required = checked or context.check_hostname
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_NONE
    if "ssl_cert" in files:  # without a password it would ask at the terminal
        password = given.get("ssl_key_password", "")
        context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"), password=password)
    return context


_TLS_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
