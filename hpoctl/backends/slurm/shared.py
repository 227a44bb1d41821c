"""Answers of Slurm, shared by all who ask about a run: a file each in the run directory.

A hundred workers and a user's `status --watch` ask slurmctld once in some seconds, and less often
while it does not answer. Knows no command and no column.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpoctl.backends.slurm.ask import NotHere
from hpoctl.errors import BatchSystemError

_MOST_S = 60.0  # between two questions that find no answer
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What Slurm said `asked_at` a moment, in seconds since 1970, and whether it has failed since.

    `silence` says why there is no newer answer; a further question waits until `again_at`.
    """

    argv: Sequence[str]
    text: str = ""
    asked_at: float = 0.0
    silence: str | None = None
    failures: int = 0
    again_at: float = 0.0


def shared(
    path: Path,
    argv: Sequence[str],
    ask: Callable[[float], str],
    *,
    newer_than: float,
    timeout_s: float,
) -> Answer:
    """The answer to `argv`, which may be another one's if it was asked after `newer_than`.

    Where Slurm does not answer within `timeout_s`: the last answer, with why. Raises
    BatchSystemError where there never was one, NotHere where there is nobody to ask.
    """
    end = time.monotonic() + timeout_s
    known = _read(path, argv)
    if not _good(known, newer_than):
        with _turn(path, end) as mine:
            known = _read(path, argv)
            if not _good(known, newer_than):
                known = _ask(known, ask, end) if mine else _unasked(known)
                if mine:
                    _write(path, known)
    if not known.asked_at:
        raise BatchSystemError(known.silence or "no answer")
    return known


def last(path: Path) -> Answer | None:
    """The last answer to any question that is kept there, if there is one."""
    with suppress(OSError, ValueError, TypeError):
        found = Answer(**json.loads(path.read_text(encoding="utf-8")))
        return found if found.asked_at else None
    return None


def _good(known: Answer, newer_than: float) -> bool:
    """Whether it will do; so will an old one while Slurm has lately failed to give another."""
    now = time.time()
    return newer_than < known.asked_at <= now or now < known.again_at <= now + _MOST_S


def _ask(known: Answer, ask: Callable[[float], str], end: float) -> Answer:
    asked_at = time.time()
    try:
        text = ask(max(0.1, end - time.monotonic()))
    except NotHere:  # said of this machine only
        raise
    except BatchSystemError as wrong:
        pause_s = min(_MOST_S, 2.0 ** (known.failures + 1))
        return replace(
            known, silence=str(wrong), failures=known.failures + 1, again_at=time.time() + pause_s
        )
    return Answer(argv=known.argv, text=text, asked_at=asked_at)


def _unasked(known: Answer) -> Answer:
    return replace(known, silence=f"{known.argv[0]}: somebody else waits for its answer")


def _read(path: Path, argv: Sequence[str]) -> Answer:
    """What is known; nothing where the file is about another question, torn or not there."""
    with suppress(OSError, ValueError, TypeError):
        found = Answer(**json.loads(path.read_text(encoding="utf-8")))
        if list(found.argv) == list(argv):
            return found
    return Answer(argv=argv)


def _write(path: Path, answer: Answer) -> None:
    """Best effort: in another one's run directory every question is asked anew."""
    partial = path.with_suffix(f".{os.uname().nodename}.{os.getpid()}.partial")
    with suppress(OSError):
        partial.write_text(json.dumps(asdict(answer)), encoding="utf-8")
        partial.replace(path)


@contextmanager
def _turn(path: Path, end: float) -> Iterator[bool]:
    """One asks, the others wait for the answer; False where that takes too long.

    Where the disk knows no locks, everybody asks.
    """
    try:
        lock = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
    except OSError:
        yield True
        return
    try:
        yield _locked(lock, end)
    finally:
        os.close(lock)


def _locked(lock: int, end: float) -> bool:
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
        except OSError:
            return True
        time.sleep(_POLL_S)
