"""What may stand behind the `?` of a database's URL: libpq's and PyMySQL's words, with their types.

A word that no driver knows is refused here, before a driver says so in its own way. What a value
is, no message says: some of them are secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from hpoctl.errors import StudyError
from hpoctl.words import nearest

Typed = Mapping[str, str | int | bool]

SECRETS = frozenset(("password", "passwd", "sslpassword", "ssl_key_password"))

# https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
_LIBPQ = (
    "application_name", "channel_binding", "client_encoding", "connect_timeout", "dbname",
    "fallback_application_name", "gssdelegation", "gssencmode", "gsslib", "host", "hostaddr",
    "keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval", "krbsrvname",
    "load_balance_hosts", "max_protocol_version", "min_protocol_version", "options", "passfile",
    "port", "require_auth", "requirepeer", "service", "ssl_max_protocol_version",
    "ssl_min_protocol_version", "sslcert", "sslcertmode", "sslcompression", "sslcrl", "sslcrldir",
    "sslkey", "sslmode", "sslnegotiation", "sslpassword", "sslrootcert", "sslsni",
    "target_session_attrs", "tcp_user_timeout", "user",
)  # fmt: skip
POSTGRESQL: Mapping[str, type] = dict.fromkeys(_LIBPQ, str)
# https://pymysql.readthedocs.io/en/latest/modules/connections.html, without what hpoctl sets
MYSQL: Mapping[str, type] = {
    "bind_address": str,
    "charset": str,
    "collation": str,
    "connect_timeout": int,
    "max_allowed_packet": int,
    "program_name": str,
    "read_timeout": int,
    "ssl_ca": str,
    "ssl_cert": str,
    "ssl_disabled": bool,
    "ssl_key": str,
    "ssl_key_password": str,
    "ssl_verify_cert": bool,
    "ssl_verify_identity": bool,
    "unix_socket": str,
    "write_timeout": int,
}
_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})|%00")  # what libpq would refuse by quoting all of it


def read(query: str, known: Mapping[str, type], origin: object) -> Typed:
    """The parameters of a URL as their driver wants them. Raises StudyError, naming the key."""
    if _BROKEN.search(query):
        raise StudyError(f"{origin}: a % behind the ? starts no character: write % as %25")
    found: dict[str, str | int | bool] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in ("password", "passwd"):
            raise StudyError(f"{origin}: {name}: write it before the host, user:password@host")
        if name not in known:
            raise StudyError(f"{origin}: {name}: unknown parameter; {nearest(name, [*known])}")
        found[name] = _typed(name, text, known[name], origin)
    return found


def _typed(name: str, text: str, kind: type, origin: object) -> str | int | bool:
    if kind is str:
        return text
    if kind is int and text.isdecimal():
        return int(text)
    if kind is bool and text.lower() in _BOOLS:
        return _BOOLS[text.lower()]
    wanted = "a whole number" if kind is int else "true or false"
    raise StudyError(f"{origin}: {name}: should be {wanted}")
