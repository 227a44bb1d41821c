"""`db`: a private PostgreSQL for those who have none. The one thing here that stays running."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hpoctl.errors import StudyError
from hpoctl.postgres import cluster, place, process, programs, settings
from hpoctl.postgres.folder import Address, Folder, default_folder, write_private
from hpoctl.study.location import redact

_WATCH_S = 1.0
_ENDINGS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class State(StrEnum):
    """Whether a server runs."""

    RUNNING = "running"
    STOPPED = "stopped"
    CRASHED = "crashed"  # it was not shut down; 'db up' recovers it
    ELSEWHERE = "elsewhere"  # on another machine, or it was when that one went away


@dataclass(frozen=True, slots=True, kw_only=True)
class DbStatus:
    """A private PostgreSQL at a glance; `answers` is whether its host and port do, from here."""

    folder: Path
    state: State
    answers: bool
    address: Address
    pid: int | None
    version: str
    url: str
    url_file: Path
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DbChange:
    """A server after `up` or `down`; `changed` is whether there was anything to do."""

    server: DbStatus
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DbRequest:
    """Where a server should be; None leaves it to hpoctl, or as it was."""

    folder: Path | None = None
    port: int | None = None
    host: str | None = None


def up(request: DbRequest) -> DbChange:
    """Starts a server, makes it first if need be; nothing to do where it runs. Raises StudyError.

    One that was killed, or was running when its machine went down, is recovered.
    """
    if os.geteuid() == 0:
        raise StudyError("PostgreSQL refuses root: run 'hpoctl db up' as an ordinary user")
    folder = _folder(request.folder)
    if not folder.is_ours():
        programs.find(os.environ, None)  # without them nothing is left behind
    folder.prepare()
    try:
        with folder.locked():
            before = folder.address() if folder.is_ours() else None
            if before is not None:
                _refuse_elsewhere(folder, before)
            if before is not None and process.running(folder) is not None:
                return _already_up(folder, before, request)
            return _start(folder, _address(before, request))
    except OSError as wrong:  # a full disk, a quota
        raise StudyError(f"{folder.path}: {wrong}") from wrong


def _already_up(folder: Folder, before: Address, request: DbRequest) -> DbChange:
    if request.port not in (None, before.port):
        raise StudyError(
            f"{folder.path}: runs on port {before.port}: 'hpoctl db down {folder.path}' first"
        )
    address = replace(before, host=request.host or before.host)
    folder.write_address(address)
    folder.write_url(address)
    return DbChange(server=_look(folder), changed=False, notes=place.notes(folder, address))


def _start(folder: Folder, address: Address) -> DbChange:
    found = programs.find(os.environ, cluster.major_of(folder))
    if not place.is_free(address.port):
        raise StudyError(
            f"port {address.port} of {address.node} is taken: 'hpoctl db up {folder.path} --port N'"
            " uses another one"
        )
    folder.write_address(address)
    recovered = process.clear(folder)
    cluster.ensure(folder, found)
    user = pwd.getpwuid(os.geteuid()).pw_name
    tls = folder.certificate.exists()
    write_private(folder.data / "postgresql.conf", settings.server_settings(folder, address.port))
    write_private(folder.data / "pg_hba.conf", settings.access_rules(tls=tls))
    write_private(folder.data / "pg_ident.conf", settings.owner_map(user))
    process.start(folder, found)
    folder.write_url(address)
    notes = ("the server before had not been shut down; its data is recovered",)
    return DbChange(
        server=_look(folder),
        changed=True,
        notes=(*(notes if recovered else ()), *place.notes(folder, address)),
    )


def serve(request: DbRequest, show: Callable[[DbChange], None]) -> None:
    """Starts a server and stays until SIGTERM or Ctrl-C, then shuts it down: for a Slurm job.

    Raises StudyError also where the server ends by itself, or runs already.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDINGS)
    started = up(request)
    folder = Folder(started.server.folder)
    if not started.changed:
        raise StudyError(f"{folder.path}: runs already: 'hpoctl db down {folder.path}' first")
    show(started)
    while process.running(folder) is not None:
        if signal.sigtimedwait(_ENDINGS, _WATCH_S) is not None:
            down(folder.path)
            return
    raise StudyError(f"{folder.path}: the server has ended: see {folder.log}")


def down(path: Path | None) -> DbChange:
    """Shuts a server down; nothing to do where it does not run. Raises StudyError."""
    folder = _folder(path)
    address = folder.address()
    with folder.locked():
        _refuse_elsewhere(folder, address)
        stopped = process.stop(folder)
        return DbChange(server=_look(folder), changed=stopped)


def status(path: Path | None) -> DbStatus:
    """A server at a glance, from any machine that sees its folder; changes nothing."""
    return _look(_folder(path))


def secret_url(path: Path | None) -> str:
    """The URL with its password. Raises StudyError where there is none yet."""
    folder = _folder(path)
    folder.address()
    try:
        return folder.url_file.read_text(encoding="utf-8").strip()
    except OSError as wrong:
        raise StudyError(f"{folder.url_file}: {wrong.strerror}") from wrong


def backup(path: Path | None, out: Path | None) -> Path:
    """Writes what pg_restore reads, whole or not at all; gives the file. Raises StudyError."""
    folder = _folder(path)
    address = folder.address()
    if not process.answers(address):
        raise StudyError(
            f"{folder.path}: nothing answers at {address.host}:{address.port}:"
            f" 'hpoctl db up {folder.path}' starts the server"
        )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = (out or folder.backups / f"hpoctl-{stamp}.dump").absolute()
    found = programs.find(os.environ, cluster.major_of(folder))
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_private(partial, "")  # so that it is never open to others
        found.run(
            "pg_dump",
            *("--format=custom", "--no-password"),
            *("--file", partial, "--dbname", folder.url(address)),
            environ={"PGPASSFILE": str(folder.passwords)},
        )
        _to_disk(partial)
        partial.replace(target)
    except OSError as wrong:
        raise StudyError(f"{target}: {wrong.strerror}") from wrong
    finally:
        partial.unlink(missing_ok=True)
    return target


def _folder(path: Path | None) -> Folder:
    return Folder((path or default_folder(os.environ)).expanduser().absolute())


def _address(before: Address | None, request: DbRequest) -> Address:
    """The same port and name as before, unless others are asked for or the machine is another."""
    node = socket.gethostname()
    same = before is not None and before.node == node
    host = request.host or (before.host if before and same else node)
    port = request.port or (before.port if before else place.free_port())
    return Address(node=node, host=host, port=port)


def _refuse_elsewhere(folder: Folder, address: Address) -> None:
    """Two servers on one folder would destroy its data, and only their own machines see them."""
    if not _is_elsewhere(folder, address):
        return
    if folder.data.is_symlink():
        raise StudyError(
            f"{folder.path}: its data is on a disk of {address.node}: run 'hpoctl db' there"
        )
    raise StudyError(
        f"{folder.path}: in use by a PostgreSQL on {address.node}: run 'hpoctl db down"
        f" {folder.path}' there; if that machine is gone for good, 'rm"
        f" {folder.data}/postmaster.pid'"
    )


def _is_elsewhere(folder: Folder, address: Address) -> bool:
    """Whether another machine has the data in use, or on a disk of its own (by a link)."""
    kept = process.noted(folder) is not None or folder.data.is_symlink()
    return kept and address.node != socket.gethostname()


def _look(folder: Folder) -> DbStatus:
    address = folder.address()
    pid, noted = process.running(folder), process.noted(folder)
    if _is_elsewhere(folder, address):
        state = State.ELSEWHERE
    elif pid is not None:
        state = State.RUNNING
    else:
        state = State.STOPPED if noted is None else State.CRASHED
    return DbStatus(
        folder=folder.path,
        state=state,
        answers=state in (State.RUNNING, State.ELSEWHERE) and process.answers(address),
        address=address,
        pid=pid,
        version=cluster.major_of(folder) or "",
        url=redact(folder.url(address, password="***")),
        url_file=folder.url_file,
        log=folder.log,
    )


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
