"""A user who looks at the study again and again, and attaches workers where some are missing."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from chaos.stage import STUDY, Answer, Stage

_LIVE = ("PENDING", "RUNNING", "CONFIGURING", "SUSPENDED")
_STUCK_S = 15.0  # without a change: longer than a lease
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
    repairs: bool = False
    _counts: dict[str, int] = field(default_factory=dict)
    _since: float = 0.0

    def __post_init__(self) -> None:
        threading.Thread.__init__(self, name="user", daemon=True)

    __hash__ = threading.Thread.__hash__  # the thread is itself, whatever its fields say

    def run(self) -> None:
        """Looks until the study has ended."""
        self.repairs = "--repair" in self.stage.hpoctl("status", "--help").out
        while not self.over.wait(_PEACE_S):
            if (status := self._status()) is None:
                continue
            counts = status["counts"]
            if not counts["waiting"] and not counts["running"]:
                self.ended.set()
                return
            self._attach(counts)

    def _status(self) -> dict[str, Any] | None:
        command = ["status", STUDY, "--json", *(["--repair"] if self.repairs else [])]
        answer = self._ask(*command)
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

    def _ask(self, *args: str) -> Answer:
        begun = time.monotonic()
        answer = self.stage.hpoctl(*args)
        if self.over.is_set():
            return Answer(code=None, out="", err="")
        said = f"hpoctl {' '.join(args)}: {answer.code}, {answer.err.splitlines()[-1:]}"
        if answer.code is None:
            said = f"hpoctl {' '.join(args)}: no end within {time.monotonic() - begun:.0f} s"
            self.complaints.append(said)
        elif answer.code not in _CODES or "Traceback" in answer.err:
            self.complaints.append(f"{said} {answer.err[-600:]}")
        elif answer.code:
            self.refused.append(said)
        return answer
