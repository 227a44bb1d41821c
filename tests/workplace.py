"""A study in a folder of its own, and real workers on it, for the tests of worker and child."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpoctl import config
from hpoctl.plan import queue
from hpoctl.record import TrialRecord, TrialState, WorkerRecord
from hpoctl.rundir import Run, RunDir
from hpoctl.study import store
from hpoctl.study.location import Location, locate
from hpoctl.study.store import Store
from hpoctl.study.summary import summarize
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Mode


def wait_until(true: Callable[[], object], seconds: float = 30) -> None:
    """Returns when something is so; fails when it is not in time."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which only its parent can take away, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """A folder with a sweep whose `objective` is `mine.py`, its trials queued."""

    folder: Path
    sweep: Sweep
    run_dir: RunDir
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def location(self) -> Location:
        storage = self.sweep.storage
        return locate(
            storage, workdir=self.folder, journal=self.run_dir.journal, environ=self.environ
        )

    def start(self, **variables: str) -> subprocess.Popen[str]:
        """A worker; `variables` as slurm/worker.sh sets them."""
        return subprocess.Popen(
            [sys.executable, "-m", "hpoctl", "worker", str(self.run_dir.path)],
            env={**os.environ, **self.environ, "HPOCTL_NODE": "here", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def work(self, *, code: int = 0, **variables: str) -> str:
        """What a worker printed until it left, with this exit code."""
        with self.start(**variables) as worker:
            printed, _ = worker.communicate(timeout=60)
        assert worker.returncode == code, printed
        return printed

    def store(self) -> Store:
        return store.open_(self.location, self.sweep)

    def records(self) -> list[TrialRecord]:
        return self.store().records()

    def counts(self) -> dict[TrialState, int]:
        """How many trials are in each state that any is in."""
        counts = summarize(self.location, self.sweep.study).counts
        return {state: count for state, count in counts.items() if count}

    def workers(self) -> Sequence[WorkerRecord]:
        return summarize(self.location, self.sweep.study).workers


def open_workplace(
    folder: Path,
    objective: str,
    sweep_text: str,
    *,
    created_at: float | None = None,
    environ: dict[str, str] | None = None,
    runs: str = "objective: mine",
) -> Workplace:
    """Writes `mine.py` and the sweep file, and queues the trials."""
    folder.mkdir(exist_ok=True)
    (folder / "mine.py").write_text(objective, encoding="utf-8")
    text = f"study: my study\n{runs}\n{sweep_text}"
    sweep = config.parse(text, "sweep.yaml")
    made = Workplace(
        folder=folder, sweep=sweep, run_dir=RunDir(folder / "my run"), environ=environ or {}
    )
    store.create(made.location, sweep, queue(sweep), owner=str(made.run_dir.path))
    run = Run(
        study=sweep.study,
        mode=Mode.ASYNC,
        backend=BackendName.LOCAL,
        trials=sweep.trials,
        arrays=(),
        overrides=(),
        workdir=folder,
        created_at=time.time() if created_at is None else created_at,
    )
    made.run_dir.create(text, run)
    return made
