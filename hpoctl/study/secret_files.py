"""The files in which a user keeps passwords, each read only where nobody else can read it."""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from pathlib import Path

from hpoctl.errors import StudyError

# The words of `[client]` that say who connects, and how; the URL says where to.
_CLIENT = ("user", "password", "ssl-ca", "ssl-cert", "ssl-key", "ssl-verify-server-cert")


def refuse_readable(path: Path, what: str) -> None:
    """Raises StudyError, with the command that mends it, if others than its owner can read it."""
    if path.stat().st_mode & 0o077:
        raise StudyError(f"{what}: {path} can be read by others: chmod 600 {path}")


def read_url_file(path: Path) -> str:
    """The text of `storage.url_file`. Raises StudyError."""
    try:
        refuse_readable(path, "storage.url_file")
        return path.read_text(encoding="utf-8")
    except OSError as wrong:
        raise StudyError(f"storage.url_file: {path}: {wrong.strerror}") from wrong


def check_pgpass(passfile: str | None, environ: Mapping[str, str]) -> None:
    """Refuses a password file that libpq would pass over with a warning, and then ask for one."""
    path = Path(passfile or environ.get("PGPASSFILE") or Path.home() / ".pgpass")
    if path.is_file():
        refuse_readable(path, "libpq's password file")


def read_my_cnf() -> Mapping[str, str]:
    """What `[client]` in ~/.my.cnf says of user, password and TLS; nothing where there is none.

    Its host and socket are not for us: the URL names the server.
    """
    path = Path.home() / ".my.cnf"
    if not path.is_file():
        return {}
    refuse_readable(path, "MySQL's option file")
    parser = configparser.RawConfigParser(
        allow_no_value=True, strict=False, comment_prefixes=("#", ";"), delimiters=("=",)
    )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        parser.read_string("\n".join(line for line in lines if not line.startswith("!")))
    except (OSError, ValueError, configparser.Error):  # whose words quote the file's lines
        raise StudyError(f"{path}: cannot be read: its first line should be [client]") from None
    if not parser.has_section("client"):
        return {}
    given = {name.replace("_", "-"): value for name, value in parser.items("client")}
    return {name: _unquoted(given[name] or "1") for name in _CLIENT if name in given}


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    return text[1:-1] if quoted else text
