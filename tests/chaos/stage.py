"""Where the chaos run plays: a Slurm, a PostgreSQL, a folder; and what can be seen of it.

Nothing here asks hpoctl what happened: Slurm, the database, /proc and the objective's own file do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
from servers import DEVCLUSTER, PostgreSQL, Slurm

ROOT = Path(__file__).parents[2]
STUDY = "chaos"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a command said; `code` is None where it did not end in time."""

    code: int | None
    out: str
    err: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """A worker that runs on this machine, between what started it and its trial's process."""

    task: str
    parent: int
    pid: int
    child: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """An array task as squeue shows it."""

    name: str
    state: str
    node: str
    restarts: int
    reason: str


@dataclass(slots=True, kw_only=True)
class Stage:
    """Starts everything, runs commands, and leaves nothing behind."""

    nodes: int
    slurm: Slurm = field(default_factory=Slurm)
    database: PostgreSQL = field(default_factory=PostgreSQL)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="hch", dir="/tmp")))
    url: str = ""
    doomed: dict[str, float] = field(default_factory=dict)
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _stopped: set[int] = field(default_factory=set)
    _closing: threading.Event = field(default_factory=threading.Event)

    def open(self) -> None:
        """Starts the cluster and the database."""
        self.database.start()
        self.url = self.database.create_database()
        self.slurm.start(self.nodes)

    def close(self) -> None:
        """Ends everything that was started, also what a fault left stopped."""
        self._closing.set()
        for command in tuple(self._running):
            _end_session(command.pid)
        for pid in tuple(self._stopped):
            self.go_on(pid)
        try:
            self.slurm.stop()
        finally:
            self.database.stop()
            shutil.rmtree(self.folder, ignore_errors=True)

    def keep(self, folder: Path) -> None:
        """Copies what the study and the cluster left, to look at."""
        shutil.copytree(self.folder, folder / "study", dirs_exist_ok=True)
        shutil.copytree(self.slurm.folder / "log", folder / "log", dirs_exist_ok=True)
        columns = "JobID,JobName,State,Submit,Start,End,ElapsedRaw,AllocTRES,ReqTRES"
        told = self.run("sacct", "-aDXP", "-S", "now-1days", "-o", columns)
        (folder / "sacct.txt").write_text(told.out + "\n")
        (folder / "status.json").write_text(self.hpoctl("status", STUDY, "--json").out + "\n")

    def log(self, task: str) -> str:
        """What a worker's task printed, over all its lives."""
        path = self.folder / "runs" / STUDY / "logs" / f"{task}.log"
        return path.read_text() if path.exists() else ""

    # --- commands ---------------------------------------------------------------------------------

    @property
    def environ(self) -> dict[str, str]:
        """The environment of a user who has the study's password in a variable."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HPOCTL_", "SLURM", "SBATCH_"))
        }
        return {
            **clean,
            **self.slurm.env,
            "HPOCTL_STORAGE": self.url,
            "HOME": str(self.folder),
            "XDG_STATE_HOME": str(self.folder / ".state"),
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
            "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        }

    def run(self, *argv: str, timeout_s: float = 30) -> Answer:
        """Runs a command to its end, or until the time is over or the stage is closed."""
        if self._closing.is_set():
            return Answer(code=None, out="", err="the run is over")
        process = subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is for us
        )
        self._running.add(process)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            waiting = _session(process.pid)
            process.send_signal(signal.SIGABRT)  # on which Python says where it is
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
            _end_session(process.pid)
            out, err = process.communicate(timeout=5)
            return Answer(code=None, out=out, err=f"was in {waiting}: {err}")
        except BaseException:
            _end_session(process.pid)
            process.wait(5)
            raise
        finally:
            self._running.discard(process)
        return Answer(code=process.returncode, out=out.strip(), err=err.strip())

    def hpoctl(self, *args: str, timeout_s: float = 150) -> Answer:
        """Runs the real command line, as a user would."""
        return self.run(sys.executable, "-m", "hpoctl", *args, timeout_s=timeout_s)

    def start(self, daemon: str) -> None:
        """Starts a daemon of the cluster again; does not wait for its nodes."""
        self.run(str(DEVCLUSTER), "start", str(self.slurm.folder), daemon, timeout_s=70)

    def await_health(self) -> None:
        """Until all daemons run and all nodes are ready."""
        self.run(str(DEVCLUSTER), "up", str(self.slurm.folder), timeout_s=90)

    # --- what Slurm says --------------------------------------------------------------------------

    def tasks(self) -> list[Task] | None:
        """The workers' tasks that Slurm has in memory; None while it does not answer."""
        columns = "ArrayJobID:|,ArrayTaskID:|,Name:|,State:|,NodeList:|,RestartCnt:|,Reason:"
        answer = self.run("squeue", "-hra", "-t", "all", "-O", columns, timeout_s=10)
        if answer.code != 0:
            return None
        rows = [[word.strip() for word in line.split("|")] for line in answer.out.splitlines()]
        return [
            Task(name=f"{job}_{index}", state=state, node=node, restarts=int(restarts), reason=why)
            for job, index, name, state, node, restarts, why in rows
            if name.startswith("hpo-")
        ]

    def task(self, name: str) -> Task | None:
        """One of them."""
        found = [task for task in self.tasks() or () if task.name == name]
        return found[0] if found else None

    def node_state(self, node: str) -> str:
        """Such as idle, mixed, down."""
        return self.run("sinfo", "-haN", "-n", node, "-o", "%T", timeout_s=10).out.split("\n")[0]

    def pid(self, daemon: str) -> int:
        """The process of one of the cluster's daemons."""
        return int((self.slurm.folder / "run" / f"{daemon}.pid").read_text())

    def doom(self, task: str, seconds: float) -> None:
        """Keeps other faults away from a task and its node: its end is on its way."""
        self.doomed[task] = time.monotonic() + seconds

    def is_doomed(self, task: str) -> bool:
        return self.doomed.get(task, 0.0) > time.monotonic()

    # --- what /proc says --------------------------------------------------------------------------

    def workers(self) -> list[WorkerProcess]:
        """The workers that run or are stopped, by task."""
        ours = f"SLURM_CONF={self.slurm.env['SLURM_CONF']}".encode()
        found: dict[int, str] = {}
        parents: dict[int, int] = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                words = process.joinpath("cmdline").read_bytes().split(b"\0")
                if b"hpoctl" not in words or b"worker" not in words:
                    continue
                environ = process.joinpath("environ").read_bytes().split(b"\0")
                tasks = [word[12:] for word in environ if word.startswith(b"HPOCTL_TASK=")]
                if ours in environ:
                    pid = int(process.name)
                    found[pid] = tasks[0].decode()
                    parents[pid] = int(_stat(pid)[1])
        children = {parents[pid]: pid for pid in found if parents[pid] in found}
        return sorted(
            (
                WorkerProcess(task=task, parent=parents[pid], pid=pid, child=children.get(pid))
                for pid, task in found.items()
                if parents[pid] not in found
            ),
            key=lambda worker: [int(part) for part in worker.task.split("_")],
        )

    def halt(self, pid: int) -> None:
        """SIGSTOP."""
        self._stopped.add(pid)
        os.kill(pid, signal.SIGSTOP)

    def go_on(self, pid: int) -> None:
        """SIGCONT, to the worker that was stopped and to no other process that has its pid now."""
        self._stopped.discard(pid)
        if pid in {worker.pid for worker in self.workers()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # --- what the database and the objective say --------------------------------------------------

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """The answer of the study's database."""
        connection = psycopg2.connect(self.url, connect_timeout=10)
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        finally:
            connection.close()

    @property
    def executions_file(self) -> Path:
        return self.folder / "executions.jsonl"

    @property
    def submissions_file(self) -> Path:
        return self.folder / "runs" / STUDY / "submissions.jsonl"


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat after the program's name: the state, the parent, ..."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _session(leader: int) -> list[str]:
    """The command lines of the processes that a command consists of."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(_stat(int(process.name))[3]) == leader:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def _end_session(leader: int) -> None:
    """Ends a command with what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which only its parent can take away, does not."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether something came true in time; returns as soon as it does."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
