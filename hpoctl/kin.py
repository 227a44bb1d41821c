"""Processes and those that they start: who ends with whom, by the kernel's word. Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that this process gets when its parent dies
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2): orphans among its descendants become its children


def end_with_parent(number: signal.Signals, parent: int) -> None:
    """Lets the kernel send this process a signal when its parent dies, or if that has just died."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def adopt_orphans() -> None:
    """Makes what descendants of this process leave behind its own children, sessions or not."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> set[int]:
    """The children of this process; none where the kernel does not list them."""
    found: set[int] = set()
    for listed in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(int(pid) for pid in listed.read_text().split())
    return found


def end_children(but: set[int], within_s: float = 10.0) -> None:
    """Kills all children but these, and what they leave behind, until none is left.

    Gives up after `within_s`: what hangs in the kernel cannot be killed.
    """
    deadline = time.monotonic() + within_s
    while (others := children() - but) and time.monotonic() < deadline:
        for pid in others:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
