"""When a worker has to go, and when its trial is told so. Moments are seconds since 1970."""

from __future__ import annotations

import math
import os
import signal
import time
from dataclasses import dataclass, field
from types import FrameType

from hpoctl.allocation import Clock
from hpoctl.words import Cause

_EARLY_S = 60  # so much earlier Slurm may send its warning (sbatch, --signal)
_RESERVE = 1 / 4  # of the warning is kept to write down how the trial ended


@dataclass(slots=True, kw_only=True)
class Ending:
    """What may end a worker: its allocation's end, and signals.

    The trial is asked to save itself `warning_s` before the end, or at a signal. It is ended
    shortly before the allocation is, or `grace_s` after a SIGTERM: Slurm's SIGKILL comes after
    KillWait. SIGUSR2 ends nothing. Near the end it is
    Slurm's warning, of which the clock knows more; else somebody wants the worker to leave.
    """

    clock: Clock
    warning_s: float
    grace_s: float
    told: signal.Signals | None = None
    told_at: float = math.inf
    _warned: bool = field(default=False, init=False)
    _wakeup: tuple[int, int] = field(default_factory=os.pipe, init=False)

    def listen(self) -> None:
        """Takes the signals of this process from now on."""
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        warns = number == signal.SIGUSR2
        if warns and self.clock.left_s(time.time()) <= self.warning_s + _EARLY_S:
            self._warned = True  # the clock knows that, or will by the next look
        elif self.told is not signal.SIGTERM:
            self.told, self.told_at = signal.Signals(number), time.time()
        os.write(self._wakeup[1], b"!")

    @property
    def wakeup(self) -> int:
        """Readable from a signal until it is `heard`."""
        return self._wakeup[0]

    def heard(self) -> None:
        """Makes the wakeup silent again."""
        os.read(self._wakeup[0], 4096)

    @property
    def reserve_s(self) -> float:
        """What is kept of the allocation to write down how its last trial ended."""
        return self.warning_s * _RESERVE

    def left_s(self, now: float) -> float:
        """Seconds to the end; asked of the batch system after its warning, as it may be earlier."""
        if self._warned:
            self._warned = False
            self.clock.refresh()
        return self.clock.left_s(now)

    def is_near(self, now: float) -> bool:
        """Whether the trial shall save itself; asks the batch system before it says so."""
        if self.told is not None:
            return True
        return self._is_left(self.warning_s, now)

    def why_over(self, now: float) -> tuple[Cause, str] | None:
        """Why the trial is ended now, or None while it is not."""
        if self.told is signal.SIGTERM and now >= self.told_at + self.grace_s:
            return Cause.PREEMPTED, f"not done {self.grace_s:.0f} s after SIGTERM, and ended"
        if self._is_left(self.reserve_s, now):
            return Cause.TIMEOUT, "not done when its allocation ended"
        return None

    def _is_left(self, seconds: float, now: float) -> bool:
        if self.left_s(now) > seconds:
            return False
        self.clock.refresh()
        return self.clock.left_s(now) <= seconds

    def next_s(self, now: float, *, asked: bool) -> float:
        """Seconds until one of the two may change."""
        left_s = self.clock.left_s(now)
        moments = [left_s - (self.reserve_s if asked else self.warning_s)]
        if self.told is signal.SIGTERM:
            moments.append(self.told_at + self.grace_s - now)
        return max(0.0, min(moments))
