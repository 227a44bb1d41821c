"""The server's process: whether it runs, starts, stops, and what a dead one has left behind.

`data/postmaster.pid` names it. After a reboot or a kill it still does, and the number may be
another program's by then: so a process counts only if it is a postgres at work in this data folder.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpoctl.errors import StudyError
from hpoctl.postgres.folder import Address, Folder
from hpoctl.postgres.programs import Programs, complaint

_START_WAIT_S = 300.0  # it may have to replay what was written before a crash
_STOP_WAIT_S = 120.0
_ORPHANS_WAIT_S = 30.0
_ANSWER_S = 3.0
_POLL_S = 0.1
_LOG_BYTES = 10_000_000  # then a start puts it aside


def running(folder: Folder) -> int | None:
    """The server's process id, if it runs on this machine."""
    pid = noted(folder)
    return pid if pid is not None and _is_at_work(pid, folder) else None


def noted(folder: Folder) -> int | None:
    """The process id that a server has written down, on whatever machine; None after its end."""
    try:
        return int(_pid_file(folder).read_text(encoding="utf-8").split("\n")[0])
    except (FileNotFoundError, ValueError):
        return None


def answers(address: Address) -> bool:
    """Whether something listens where the URL leads."""
    try:
        with socket.create_connection((address.host, address.port), _ANSWER_S):
            return True
    except OSError:
        return False


def clear(folder: Folder) -> bool:
    """Removes what a dead server has left; whether there was anything. Raises StudyError.

    Its children may outlive it for a moment, and would write to the same files: they are waited
    for.
    """
    if not _within(_ORPHANS_WAIT_S, lambda: not any(_processes(folder))):
        pids = ", ".join(map(str, _processes(folder)))
        raise StudyError(f"{folder.data}: processes of a dead server are left: kill {pids}")
    left = [path for path in (_pid_file(folder), *folder.path.glob(".s.PGSQL.*")) if path.exists()]
    for path in left:
        path.unlink()
    return bool(left)


def start(folder: Folder, programs: Programs) -> None:
    """Starts the server and waits until it takes connections. Raises StudyError."""
    if folder.log.exists() and folder.log.stat().st_size > _LOG_BYTES:
        folder.log.replace(folder.log.with_name("log.old"))
    begin = folder.log.stat().st_size if folder.log.exists() else 0
    process = programs.launch(folder.data, folder.log)
    ready = _within(
        _START_WAIT_S, lambda: process.poll() is not None or _is_ready(folder, process.pid)
    )
    if process.poll() is not None:
        said = folder.log.read_bytes()[begin:].decode(errors="replace")
        raise StudyError(f"{folder.data}: the server does not start: {complaint(said)}")
    if not ready:
        raise StudyError(f"{folder.data}: not ready after {_START_WAIT_S:.0f} s: see {folder.log}")


def stop(folder: Folder) -> bool:
    """Ends the server at once and in order; whether one ran. Raises StudyError."""
    pid = running(folder)
    if pid is None:
        return False
    os.kill(pid, signal.SIGINT)  # its fast shutdown: waits for no client
    if not _within(_STOP_WAIT_S, lambda: running(folder) is None):
        raise StudyError(f"{folder.data}: process {pid} does not end: see {folder.log}")
    return True


def _is_ready(folder: Folder, pid: int) -> bool:
    """By the eighth line of its file, which is what pg_ctl looks at."""
    try:
        lines = _pid_file(folder).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return False
    return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def _is_at_work(pid: int, folder: Folder) -> bool:
    try:
        program = (Path("/proc") / str(pid) / "exe").readlink().name
        place = (Path("/proc") / str(pid) / "cwd").readlink()
    except OSError:  # ended, or another user's
        return False
    return program.startswith("postgres") and place == folder.data.resolve()


def _processes(folder: Folder) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _is_at_work(int(entry.name), folder):
            yield int(entry.name)


def _pid_file(folder: Folder) -> Path:
    return folder.data / "postmaster.pid"


def _within(deadline_s: float, condition: Callable[[], bool]) -> bool:
    """Whether a condition holds in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
