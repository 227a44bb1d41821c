"""Carries what a trial's process says to the study, until the process has ended.

While the trial is silent no connection to the database is held, and the worker gives its signs of
life. While the database is away the trial goes on: its reports wait here.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any

from hpoctl import kin, memory, oom
from hpoctl.child import Flag
from hpoctl.ending import Ending
from hpoctl.errors import Unreachable
from hpoctl.failures import last_line
from hpoctl.metrics import MEMORY
from hpoctl.spool import Result
from hpoctl.study.protocol import Claim, Outcome, Store
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)
_MUTE_S = 20.0  # in an outage the study is asked once in this time, so that the GPU does not wait
_BECOMES = {
    Policy.RETRY: "lost",
    Policy.REQUEUE: "given back",
    Policy.INFEASIBLE: "infeasible",
    Policy.FAIL: "failed",
}
_BRIEF_S = 1.0  # a trial that is silent for longer holds no connection to the database


@dataclass(slots=True)
class Relay:
    """Between one trial's process and the study; calls `beat` every `beat_s` seconds."""

    store: Store
    claim: Claim
    pipe: Connection
    process: ForkProcess
    beat: Callable[[], None]
    beat_s: float
    ending: Ending
    asked: Flag
    others: set[int]  # children of this process before the trial was begun
    _ended: tuple[Cause, str] | None = field(default=None, init=False)
    _unsaid: list[tuple[float, int]] = field(default_factory=list, init=False)
    _mute_until: float = field(default=0.0, init=False)
    _kills: int | None = field(default_factory=oom.kills, init=False)
    _largest: float = field(default_factory=memory.of_children, init=False)
    _beat_at: float = field(default_factory=time.monotonic, init=False)

    def relay(self) -> Result:
        """How the trial ended; nothing that it started is left."""
        try:
            last = self._listen()
        except BaseException:
            self.process.kill()
            raise
        finally:
            self.process.join()
            self._end_what_it_started()
        return self._result(last)

    def _listen(self) -> Mapping[str, Any]:
        """The child's last message, after every report before it was written down."""
        last: Mapping[str, Any] = {}
        while True:
            self._wait()
            if not self.pipe.poll():
                return last
            try:
                last = json.loads(self.pipe.recv_bytes())
            except (EOFError, OSError):
                return last
            if "report" in last:
                self._answer({"prune": self._report(last["report"], last["step"])})

    def _wait(self) -> None:
        """Until the child says something or ends."""
        ends: list[Connection | int] = [self.pipe, self.process.sentinel, self.ending.wakeup]
        rested = False
        while True:
            rested = self._mind_the_end() or rested
            left_s = self._beat_at + self.beat_s - time.monotonic()
            if left_s <= 0:
                self._beat()
                rested = True
                continue
            end_s = self.ending.next_s(time.time(), asked=self.asked.is_set())
            if self._ended is None:
                left_s = min(left_s, end_s)
            ready = wait(ends, timeout=left_s if rested else min(_BRIEF_S, left_s))
            if self.ending.wakeup in ready:
                self.ending.heard()
            elif ready:
                return
            elif not rested:
                self.store.rest()
                rested = True

    def _beat(self) -> None:
        self.beat()
        self._beat_at = time.monotonic()

    def _mind_the_end(self) -> bool:
        """Asks the trial to save itself, and later ends it; True where the study was told."""
        asks = not self.asked.is_set() and self.ending.is_near(time.time())
        if asks:
            self.asked.set()
            log.info("trial %d is asked to save itself", self.claim.number)
            self._beat()  # whoever finds this worker gone shall know that it was told to go
        if self._ended is None:
            self._ended = self.ending.why_over(time.time())
            if self._ended is not None:
                self.process.kill()
        return asks

    def _report(self, value: float, step: int) -> bool:
        """Whether the trial shall end; False while the study cannot be asked."""
        self._unsaid.append((value, step))
        if time.monotonic() < self._mute_until:
            return False
        prune = False
        try:
            while self._unsaid:
                prune = self.store.report(self.claim, *self._unsaid[0])
                self._unsaid.pop(0)
        except Unreachable as wrong:
            log.warning("the trial goes on, its reports wait: %s", wrong)
            self._mute_until = time.monotonic() + _MUTE_S
        return prune

    def _answer(self, message: Mapping[str, object]) -> None:
        with suppress(BrokenPipeError):  # it died meanwhile; the sentinel says so next
            self.pipe.send_bytes(json.dumps(message).encode())

    def _end_what_it_started(self) -> None:
        with suppress(ProcessLookupError, PermissionError):  # nothing of it is left
            os.killpg(self.process.pid or 0, signal.SIGKILL)
        kin.end_children(but=self.others)  # also in sessions of their own, as torchrun has them

    def _result(self, last: Mapping[str, Any]) -> Result:
        cause, said = self._ended or self._death()
        cause = Cause(last.get("cause", cause))
        if self.ending.told is signal.SIGTERM and cause is Cause.ERROR:
            cause = Cause.PREEMPTED  # Slurm's SIGTERM reaches all that the trial has started
        failed = Result(
            number=self.claim.number,
            trial_id=self.claim.trial_id,
            attempt=self.claim.attempt,
            root=self.claim.root,
            at=time.time(),
            outcome=Outcome.FAILED,
            error=last.get("error", said),
            cause=cause,
            attrs=last.get("extras", self._used() if cause is Cause.HOST_OOM else {}),
            reports=tuple(self._unsaid),
        )
        if "values" in last:
            if any(math.isnan(value) for value in last["values"]):
                return replace(failed, error="the objective returned NaN", cause=Cause.NAN)
            return replace(failed, outcome=Outcome.COMPLETE, values=last["values"], error="")
        if "checkpointed" in last:
            return replace(failed, outcome=Outcome.RETURNED, error="")
        if "pruned" in last:
            return replace(failed, outcome=Outcome.PRUNED, error="")
        return failed

    def _used(self) -> Mapping[str, float]:
        """The memory of a process that could say nothing, if it was the largest so far."""
        peak = memory.of_children()
        return {MEMORY[Cause.HOST_OOM]: peak} if peak > self._largest else {}

    def _death(self) -> tuple[Cause, str]:
        """The class of a death without words, and what can be said of it."""
        code = self.process.exitcode
        if code is None or code >= 0:
            said = f"the trial's process left with exit code {code} and no result"
            return Cause.ERROR, said
        full, hint = oom.said_of_a_kill(self._kills) if code == -signal.SIGKILL else (False, "")
        said = f"the trial's process was ended by {signal.Signals(-code).name}{hint}"
        return Cause.HOST_OOM if full else Cause.ERROR, said


def waits_again(result: Result) -> bool:
    """Whether a trial has not ended by this, as far as its worker can tell."""
    if result.outcome is Outcome.FAILED:
        return result.policy in (Policy.RETRY, Policy.REQUEUE)
    return result.outcome is Outcome.RETURNED


def in_words(result: Result) -> str:
    """A result in a few words."""
    match result.outcome:
        case Outcome.COMPLETE:
            return "complete " + " ".join(f"{value:.6g}" for value in result.values)
        case Outcome.PRUNED:
            return "pruned"
        case Outcome.RETURNED:
            return "saved itself, to go on later"
        case _:
            return f"{_BECOMES[result.policy]}, {result.cause}: {last_line(result.error)}"
