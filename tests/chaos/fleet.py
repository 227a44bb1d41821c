"""Real workers on one study, which are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from workplace import is_alive


@dataclass(slots=True, kw_only=True)
class Slot:
    """A place for one worker at a time."""

    task: str
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()
    killed: bool = False
    stopped_until: float | None = None

    def send(self, number: signal.Signals) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


@dataclass(slots=True, kw_only=True)
class Fleet:
    """So many workers of a run directory; `complaints` are of those that ended by themselves."""

    run_dir: Path
    size: int
    environ: Mapping[str, str]
    slots: list[Slot] = field(init=False)
    complaints: list[str] = field(default_factory=list, init=False)
    started: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.slots = [Slot(task=f"1_{i}") for i in range(self.size)]

    @property
    def tasks(self) -> set[str]:
        """Those of whom a worker runs, or stands still."""
        return {slot.task for slot in self.slots if slot.process is not None}

    def fill(self) -> None:
        """A worker at every free place."""
        for slot in self.slots:
            if slot.process is None:
                self._start(slot)

    def tend(self) -> None:
        """Lets stopped workers go on whose time has come, and takes away those that ended."""
        for slot in self.slots:
            if slot.stopped_until is not None and time.monotonic() > slot.stopped_until:
                slot.send(signal.SIGCONT)
                slot.stopped_until = None
            if slot.process is None or slot.process.poll() is None:
                continue
            code, slot.process = slot.process.returncode, None
            if code != 0 and not (slot.killed and code == -signal.SIGKILL):
                self.complaints.append(f"worker {slot.task} ended with {code}: {_end(slot.log)}")

    def kill(self, victim: int, *, same_task: bool) -> None:
        """Ends a worker at once; another one is started in its place."""
        slot = self._living(victim)
        slot.killed = True
        slot.send(signal.SIGKILL)
        if slot.process is not None:
            slot.process.wait(20)
        self.tend()
        if not same_task:
            slot.task = f"{self.started}_{slot.task.rpartition('_')[2]}"
        self._start(slot)

    def stop(self, victim: int, lasts_s: float) -> None:
        """Lets a worker stand still for a while."""
        slot = self._living(victim)
        slot.send(signal.SIGSTOP)
        slot.stopped_until = max(slot.stopped_until or 0.0, time.monotonic() + lasts_s)

    def kill_child(self, victim: int) -> bool:
        """Ends the process of a running trial; whether there was any."""
        for i in range(self.size):
            slot = self.slots[(victim + i) % self.size]
            for child in _children(slot):
                if is_alive(child):
                    with suppress(ProcessLookupError):
                        os.kill(child, signal.SIGKILL)
                        return True
        return False

    def end(self) -> None:
        """Nothing of it is left; for the end of a test that failed, too."""
        for slot in self.slots:
            if slot.process is not None:
                slot.process.kill()
                slot.process.wait(20)

    def _living(self, victim: int) -> Slot:
        order = [self.slots[(victim + i) % self.size] for i in range(self.size)]
        for slot in order:
            if slot.process is not None and slot.stopped_until is None:
                return slot
        slot = order[0]
        if slot.process is None:
            self._start(slot)
        return slot

    def _start(self, slot: Slot) -> None:
        slot.killed, slot.stopped_until = False, None
        slot.log = self.run_dir / "logs" / f"{self.started:04d}-{slot.task}.log"
        self.started += 1
        with slot.log.open("wb") as log:
            slot.process = subprocess.Popen(
                [sys.executable, "-m", "hpoctl", "worker", str(self.run_dir)],
                env={**os.environ, **self.environ, "HPOCTL_TASK": slot.task, "HPOCTL_NODE": "here"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )


def _children(slot: Slot) -> list[int]:
    if slot.process is None:
        return []
    pid = slot.process.pid
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _end(log: Path) -> str:
    """The last lines of a worker's log, in one."""
    return " | ".join(log.read_text(errors="replace").strip().splitlines()[-12:])
