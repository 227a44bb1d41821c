"""Where a study lives: turns the sweep's `storage` into a URL, and never shows its password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.errors import StudyError
from hpoctl.study import parameters
from hpoctl.study.secret_files import read_url_file
from hpoctl.words import StorageKeys

if TYPE_CHECKING:
    from hpoctl.sweep import Storage


class Kind(StrEnum):
    """The storages that hpoctl knows."""

    JOURNAL = "journal"
    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    MYSQL = "mysql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """A storage: a file's path, or a database's URL in SQLAlchemy's words."""

    kind: Kind
    url: str = field(repr=False)

    def __str__(self) -> str:
        return redact(self.url)

    @property
    def path(self) -> Path:
        """The file of an embedded storage."""
        return Path(self.url)


# Characters of a password that are not written as %XX would end it early: the rest is then taken,
# and shown, as a host or a database.
_WORD = r"(?:[^@/?#:%\[\]\s]|%(?!00)[0-9A-Fa-f]{2})*"
_URL = re.compile(
    rf"[a-z0-9+]+://(?:(?P<user>{_WORD})(?::(?P<password>(?:{_WORD}:)*{_WORD}))?@)?"
    r"(?P<host>[^@/?#\s]*)(?P<database>/[^@?#\s]*)?(?:\?[^@#\s]*)?"
)

_DRIVERS = {
    "postgresql": (Kind.POSTGRESQL, "postgresql+psycopg2"),
    "postgres": (Kind.POSTGRESQL, "postgresql+psycopg2"),
    "mysql": (Kind.MYSQL, "mysql+pymysql"),
    "mariadb": (Kind.MYSQL, "mysql+pymysql"),
}


def locate(
    storage: Storage | StorageKeys, *, workdir: Path, journal: Path, environ: Mapping[str, str]
) -> Location:
    """The storage that a sweep names; `journal` where it names none. Raises StudyError."""
    if storage.sqlite is not None:
        return Location(kind=Kind.SQLITE, url=str(_below(workdir, storage.sqlite)))
    if storage.journal is not None:
        return Location(kind=Kind.JOURNAL, url=str(_below(workdir, storage.journal)))
    if storage.url_env is not None:
        if not environ.get(storage.url_env):
            raise StudyError(
                f"storage.url_env: {storage.url_env} is not set:"
                f" export {storage.url_env}=postgresql://user:password@host/database"
            )
        return parse_url(environ[storage.url_env], storage.url_env)
    if storage.url_file is not None:
        return parse_url(read_url_file(_below(workdir, storage.url_file)), storage.url_file)
    if storage.url is not None:
        return parse_url(storage.url, "storage.url")
    return Location(kind=Kind.JOURNAL, url=str(journal))


def _below(workdir: Path, path: str) -> Path:
    return workdir / Path(path).expanduser()


def parse_url(url: str, origin: str) -> Location:
    """A database URL, with the driver that hpoctl brings. Raises StudyError without showing it."""
    scheme, separator, rest = url.strip().partition("://")
    dialect = scheme.partition("+")[0]
    if separator and dialect == "sqlite":
        return Location(kind=Kind.SQLITE, url=rest.removeprefix("/"))
    if not separator or dialect not in _DRIVERS:
        raise StudyError(
            f"{origin}: not a URL that hpoctl knows:"
            " write postgresql://user@host/database or mysql://user@host/database"
        )
    if not _URL.fullmatch(url.strip()):
        raise StudyError(
            f"{origin}: cannot be read as a URL: in a password, write each of"
            " @ / ? # % [ ] and space as %40 %2F %3F %23 %25 %5B %5D %20"
        )
    kind, driver = _DRIVERS[dialect]
    known = parameters.POSTGRESQL if kind is Kind.POSTGRESQL else parameters.MYSQL
    parameters.read(rest.partition("?")[2], known, origin)
    return Location(kind=kind, url=f"{driver}://{rest}")


def redact(url: str) -> str:
    """A URL as it may be shown: `postgresql://user:***@host/database`, without its driver."""
    if "://" not in url:
        return url
    scheme = url.partition("://")[0].partition("+")[0]
    parts = _URL.fullmatch(url)
    if parts is None:  # what is a password in it, nobody knows
        return f"{scheme}://***"
    user = (parts["user"] or "") + (":***" if parts["password"] is not None else "")
    at = "@" if user else ""
    return f"{scheme}://{user}{at}{parts['host']}{parts['database'] or ''}"
