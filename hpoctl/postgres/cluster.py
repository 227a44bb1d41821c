"""Makes the data of a server: its files, its one role and database, its certificate.

What is made stands under a name of its own until it is whole: a kill leaves nothing half-made.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path

from hpoctl.errors import StudyError
from hpoctl.postgres.folder import NAME, Folder
from hpoctl.postgres.programs import Programs, run
from hpoctl.postgres.settings import ADMIN

_CERTIFICATE_DAYS = "3650"
_PARTIAL = "data.partial."  # each has its own: an initdb may outlive the 'up' that started it


def major_of(folder: Folder) -> str | None:
    """The PostgreSQL that made the data; None where there is none yet."""
    try:
        return (folder.data / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None


def ensure(folder: Folder, programs: Programs) -> None:
    """Makes what is not there yet, while no server runs: data, password, certificate."""
    for left in folder.path.glob(f"{_PARTIAL}*"):  # by an 'up' that was killed
        shutil.rmtree(left, ignore_errors=True)
    fresh = not folder.data.exists()
    if fresh:
        _make_data(folder, programs)
    if not folder.passwords.exists():
        _set_password(folder, programs)
    if fresh and not folder.certificate.exists():
        _make_certificate(folder, programs)


def _make_data(folder: Folder, programs: Programs) -> None:
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.path))
    programs.run(
        "initdb",
        *("--pgdata", partial),
        f"--username={ADMIN}",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C",  # a node's own may be missing, or sort otherwise than the last node's
    )
    _execute(partial.name, folder, programs, f"create role {NAME} login")
    _execute(partial.name, folder, programs, f"create database {NAME} owner {NAME}")
    partial.rename(folder.data)


def _set_password(folder: Folder, programs: Programs) -> None:
    password = secrets.token_hex(32)
    _execute(folder.data.name, folder, programs, f"alter role {NAME} password '{password}'")
    folder.write_password(password)


def _execute(data: str, folder: Folder, programs: Programs, statement: str) -> None:
    """Runs a statement, given on stdin, as the superuser on data that no server has open."""
    settings = {
        "exit_on_error": "true",
        "log_min_error_statement": "panic",  # it may hold the password
        "password_encryption": "scram-sha-256",
    }
    flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    place = str(folder.path / data)
    programs.run("postgres", "--single", "-D", place, *flags, "postgres", text=f"{statement}\n")


def _make_certificate(folder: Folder, programs: Programs) -> None:
    """A key and a certificate signed by itself, where this PostgreSQL and this machine can."""
    openssl = shutil.which("openssl")
    if openssl is None or not _has_tls(folder, programs):
        return
    partial = folder.certificate.with_name(f"{folder.certificate.name}.partial")
    request = ["req", "-x509", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={NAME}"]
    files = ["-days", _CERTIFICATE_DAYS, "-keyout", str(folder.key), "-out", str(partial)]
    run([openssl, *request, *files])
    partial.rename(folder.certificate)


def _has_tls(folder: Folder, programs: Programs) -> bool:
    try:
        return bool(programs.run("postgres", "-D", folder.data, "-C", "ssl_library").strip())
    except StudyError:  # older than PostgreSQL 12
        return False
