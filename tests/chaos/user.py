"""A user who looks at the study again and again, and attaches workers where some are missing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.stage import STUDY, Answer, Stage, Task

_LIVE = ("PENDING", "RUNNING", "CONFIGURING", "SUSPENDED")
_STUCK_S = 15.0  # without a change: longer than a lease
_LAWLESS_S = 20.0  # that a worker may outlive its allocation: KillWait, and a controller's absence
_PEACE_S = 1.5  # between two looks
# What hpoctl may answer while Slurm (3) or the database (4) is away.
_CODES = (0, 3, 4)


@dataclass(slots=True, kw_only=True)
class User(threading.Thread):
    """Ends by itself when no trial waits or runs; `complaints` are wrong answers of hpoctl."""

    stage: Stage
    workers: int
    trials: int
    ended: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    complaints: list[str] = field(default_factory=list)
    attached: list[int] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    repair: tuple[str, ...] = ()
    _counts: dict[str, int] = field(default_factory=dict)
    _since: float = 0.0
    _outlaws: dict[int, float] = field(default_factory=dict)
    _told: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        threading.Thread.__init__(self, name="user", daemon=True)

    __hash__ = threading.Thread.__hash__  # the thread is itself, whatever its fields say

    def run(self) -> None:
        """Looks until the study has ended."""
        if "--repair" in self.stage.hpoctl("status", "--help").out:
            self.repair = ("--repair",)
        while not self.over.wait(_PEACE_S):
            if (status := self._status()) is None:
                continue
            counts = status["counts"]
            if not counts["waiting"] and not counts["running"]:
                self.ended.set()
                return
            self._attach(counts)

    def _status(self) -> dict[str, Any] | None:
        answer = self._ask("status", STUDY, "--json", *self.repair)
        if answer.code != 0:
            return None
        status: dict[str, Any] = json.loads(answer.out)
        if sum(status["counts"].values()) != self.trials:
            self.complaints.append(f"status counts {status['counts']}, not {self.trials}")
        return status

    def _attach(self, counts: dict[str, int]) -> None:
        tasks = self.stage.tasks()
        if tasks is None:
            return
        self._watch_for_outlaws(tasks)
        if counts != self._counts:
            self._counts, self._since = counts, time.monotonic()
        live = sum(task.state in _LIVE and "held" not in task.reason for task in tasks)
        # What runs in the study's eyes may run on nobody: 'workers add' queues what is lost.
        stuck = not counts["waiting"] and time.monotonic() > self._since + _STUCK_S
        missing = max(self.workers - live, 1 if stuck else 0)
        if missing and (counts["waiting"] or stuck or not live):
            answer = self._ask("workers", "add", STUDY, "-n", str(missing), "--json")
            if answer.code == 0:
                arrays = json.loads(answer.out)["arrays"]
                self.attached += [array["tasks"] for array in arrays]

    def _watch_for_outlaws(self, tasks: Sequence[Task]) -> None:
        """Complains of a worker that runs on where Slurm has given its GPU to others."""
        lawful = {task.name for task in tasks if task.state in ("RUNNING", "COMPLETING")}
        now, before = time.monotonic(), self._outlaws
        running = self.stage.workers()
        self._outlaws = {
            worker.pid: before.get(worker.pid, now)
            for worker in running
            if worker.task not in lawful
        }
        for worker in running:
            if (
                now - self._outlaws.get(worker.pid, now) > _LAWLESS_S
                and worker.pid not in self._told
            ):
                self._told.add(worker.pid)
                self.complaints.append(
                    f"worker {worker.pid} of {worker.task} runs on without its allocation"
                )

    def _ask(self, *args: str) -> Answer:
        begun = time.monotonic()
        answer = self.stage.hpoctl(*args)
        if self.over.is_set():
            return Answer(code=None, out="", err="")
        said = f"hpoctl {' '.join(args)}: {answer.code}, {answer.err.splitlines()[-1:]}"
        if answer.code is None:
            took_s = time.monotonic() - begun
            self.complaints.append(
                f"hpoctl {' '.join(args)}: no end in {took_s:.0f} s, {answer.err}"
            )
        elif answer.code not in _CODES or "Traceback" in answer.err:
            self.complaints.append(f"{said} {answer.err[-600:]}")
        elif answer.code:
            self.refused.append(said)
        return answer
