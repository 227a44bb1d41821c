"""Processes that append to a journal and are killed or stopped where a test says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

# Appends one record, and is killed or stopped at a point.
_HARNESS = """
import os, signal, sys
from pathlib import Path
from hpoctl.study import journal, lock
point, path, key = sys.argv[1:4]
write, symlink, unlink = os.write, Path.symlink_to, Path.unlink
pwrite, fsync = os.pwrite, os.fsync
die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
def torn(number, data):
    write(number, data[:{"half a line": len(data) // 2, "no end of line": len(data) - 1}[point]])
    die()
if point in ("half a line", "no end of line"):
    os.write = torn
elif point == "before the link":
    Path.symlink_to = die
elif point == "holding the lock":
    os.write = die
elif point == "before fsync":
    os.fsync = die
elif point == "before letting go":
    Path.unlink = die
elif point == "before mending":
    os.pwrite = die
elif point == "after mending":
    os.pwrite = lambda *args: (pwrite(*args), die())
elif point == "stopped before its check":
    check = lock.Hold.check
    def late(hold):
        lock.Hold.check = check
        os.kill(os.getpid(), signal.SIGSTOP)
        check(hold)
    lock.Hold.check = late
elif point == "stopped after its check":
    os.write = lambda *args: (os.kill(os.getpid(), signal.SIGSTOP), write(*args))[1]
record = {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {key: 1}}
journal.JournalFile(Path(path)).append_logs([record])
"""

# Appends records one by one and names each on stdout once it is on disk.
_APPENDER = """
import sys
from pathlib import Path
path, name, count, kind = sys.argv[1:5]
if kind == "optuna":
    from optuna.storages.journal import JournalFileBackend
    journal = JournalFileBackend(path)
else:
    from hpoctl.study.journal import JournalFile
    from hpoctl.study.lock import FileLock
    journal = JournalFile(Path(path), lock=FileLock(Path(path), stopped_s=float(kind)))
for i in range(int(count)):
    key = f"{name}-{i}"
    attr = {key: "x" * (i * 97 % 5000)}
    record = {"op_code": 2, "worker_id": name, "study_id": 0, "user_attr": attr}
    journal.append_logs([record])
    print(key, flush=True)
"""


def append(path: Path, key: str, point: str = "") -> None:
    """Appends one record in a process of its own, which `point` kills."""
    command = [sys.executable, "-c", _HARNESS, point, str(path), key]
    done = subprocess.run(command, capture_output=True, text=True, timeout=8)
    assert done.returncode == (-signal.SIGKILL if point else 0), done.stderr


def stopping(path: Path, key: str, point: str) -> subprocess.Popen[str]:
    """The same, in a process that `point` stops."""
    return subprocess.Popen([sys.executable, "-c", _HARNESS, point, str(path), key], text=True)


def is_stopped(process: subprocess.Popen[str]) -> bool:
    """Whether the process stands still."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def appender(path: Path, name: str, count: int, kind: str) -> subprocess.Popen[str]:
    """A process that appends; `kind` is `optuna`, or the seconds that a stopped holder is given."""
    command = [sys.executable, "-c", _APPENDER, str(path), name, str(count), kind]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def keys(path: Path) -> list[str]:
    """Which records of these processes stand in the file, each line read as JSON."""
    lines = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    return [key for line in lines if line["op_code"] == 2 for key in line["user_attr"]]


def send(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """A signal to a process that may have ended."""
    if process.poll() is None:
        os.kill(process.pid, number)
