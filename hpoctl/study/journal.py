"""A journal that outlives kills in mid-write and full disks, and that plain Optuna can read.

A record is one line of JSON. A line that was torn is made spaces when the next record is appended:
spaces before a record are JSON, so every reader reads on, and no byte of anybody else is touched.
Knows records as lines; what they mean is Optuna's business. Optuna's own file backend is
`optuna.storages.journal.JournalFileBackend` (5.0), whose two methods these are.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hpoctl.errors import StudyError, Unreachable
from hpoctl.study.database import LONGEST_PAUSE_S, PATIENCE_S
from hpoctl.study.lock import FileLock, Hold, LockLost

log = logging.getLogger(__name__)

Record = dict[str, Any]  # as Optuna hands it over and wants it back
_T = TypeVar("_T")

_START = re.compile(rb'\{"op_code":')  # of each record that Optuna writes
_CHUNK = 65_536
# Disk full, quota, size limit; a file server that stumbles.
_PASSING = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.ETIMEDOUT)
)


class JournalFile:
    """The file, and how far this process has read it."""

    def __init__(
        self,
        path: Path,
        *,
        lock: FileLock | None = None,
        patience_s: float = PATIENCE_S,
        patient: bool = False,
    ) -> None:
        self.path = path
        self._lock = lock or FileLock(path)
        self._patience_s = patience_s
        self._answered = patient
        self._pending: list[Record] | None = None  # what `exclusively` will write
        self._position = (0, 0)  # records read, and where the next one starts
        self._torn: dict[int, bytes] = {}  # by place in the file

    def read_logs(self, log_number_from: int) -> Iterator[Record]:
        """The whole records from this number on. A torn line is no record, and is told once."""
        number, start = self._position if log_number_from >= self._position[0] else (0, 0)
        whole = self._patiently(lambda: self._read_lines(start))
        for place, line in _places(whole, start):
            record, torn = parse(line)
            if torn and place not in self._torn:
                self._torn[place] = line[:torn]
                log.warning("%s: %d torn bytes at byte %d: not read", self.path, torn, place)
            if record is None:
                continue
            number += 1
            self._position = (number, place + len(line))
            if number > log_number_from:
                yield record

    def append_logs(self, logs: Sequence[Record]) -> None:
        """Writes records to disk, all or none; waits while the disk is full. Raises StudyError."""
        if self._pending is not None:
            self._pending += logs
            return
        self._patiently(lambda: self._append(_encode(logs)))
        self._answered = True

    def exclusively(self, action: Callable[[], _T], *, patience_s: float | None = None) -> _T:
        """Runs an action while nobody else writes, then writes all that it appended, or nothing.

        Until then it does not read what it appended. It runs again where the lock was lost, or
        nothing could be written. Raises StudyError; Unreachable after `patience_s`.
        """
        before = self._patience_s
        self._patience_s = before if patience_s is None else min(before, patience_s)
        try:
            answer = self._patiently(lambda: self._run_and_append(action))
        finally:
            self._patience_s = before
        self._answered = True
        return answer

    def _run_and_append(self, action: Callable[[], _T]) -> _T:
        with self._lock.held() as hold, _opened(self.path, os.O_RDWR | os.O_APPEND) as number:
            self._mend(number, hold)
            self._pending = []
            try:
                answer = action()
                data = _encode(self._pending)
            finally:
                self._pending = None
            self._write(number, hold, data)
            return answer

    def _patiently(self, action: Callable[[], _T]) -> _T:
        """As `Database` does: what may pass is tried again, by a process that has once written."""
        patience = time.monotonic() + self._patience_s
        pause = 0.05
        while True:
            try:
                return action()
            except LockLost:
                continue
            except FileNotFoundError as wrong:
                raise StudyError(f"{self.path}: no such file: was the study deleted?") from wrong
            except OSError as wrong:
                complaint = f"{self.path}: {wrong.strerror}"
                if wrong.errno not in _PASSING:
                    raise StudyError(complaint) from wrong
                if not self._answered or time.monotonic() > patience:
                    raise Unreachable(complaint) from wrong
                log.info("%s: %s: trying again", self.path, wrong.strerror)
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, LONGEST_PAUSE_S)

    def _read_lines(self, start: int) -> bytes:
        """Everything from a place on, up to the last end of a line."""
        with self.path.open("rb") as file:
            file.seek(start)
            rest = file.read()
        return rest[: rest.rfind(b"\n") + 1]

    def _append(self, data: bytes) -> None:
        with self._lock.held() as hold, _opened(self.path, os.O_RDWR | os.O_APPEND) as number:
            self._mend(number, hold)
            self._write(number, hold, data)

    def _mend(self, number: int, hold: Hold) -> None:
        """Makes spaces of what a killed writer left, and of torn lines that were read."""
        start, tail = _tail(number)
        if tail.strip(b" "):
            self._torn[start] = tail
            log.warning("%s: %d torn bytes at its end: made spaces", self.path, len(tail))
        for place, torn in self._torn.items():
            hold.check()
            self._blank(number, place, torn)
        self._torn.clear()

    def _write(self, number: int, hold: Hold, data: bytes) -> None:
        """Appends all of it, or takes back what was written of it."""
        if not data:
            return
        written = 0
        try:
            while written < len(data):
                hold.check()  # one write in append mode: even a late one goes to the end, whole
                written += os.write(number, data[written:])
            os.fsync(number)
        except BaseException as wrong:
            try:
                place = os.lseek(number, 0, os.SEEK_CUR) - written
                self._blank(number, place, data[:written])
            except OSError:
                if written == len(data):  # to write it again might make two of it
                    complaint = f"{self.path}: {wrong}; the last record may be there or not"
                    raise StudyError(complaint) from wrong
            raise

    def _blank(self, number: int, place: int, what: bytes) -> None:
        """Makes spaces of these bytes, if they still stand there; needs no room on the disk."""
        if not what or os.pread(number, len(what), place) != what:
            return
        # A file in append mode writes at its end whatever place is asked for, see pwrite(2).
        with _opened(self.path, os.O_WRONLY) as other:
            os.pwrite(other, b" " * len(what), place)
            os.fsync(other)


def _encode(logs: Sequence[Record]) -> bytes:
    text = "".join(json.dumps(record, separators=(",", ":")) + "\n" for record in logs)
    return text.encode()


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    number = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield number
    finally:
        with suppress(OSError):  # the data is on disk since fsync, or taken back
            os.close(number)


def _tail(number: int) -> tuple[int, bytes]:
    """What follows the last end of a line, and where it starts."""
    size = start = os.fstat(number).st_size
    tail = b""
    while start and b"\n" not in tail:
        start = max(0, start - _CHUNK)
        tail = os.pread(number, size - start, start)
    tail = tail[tail.rfind(b"\n") + 1 :]
    return size - len(tail), tail


def _places(whole: bytes, start: int) -> Iterator[tuple[int, bytes]]:
    for line in io.BytesIO(whole):
        yield start, line
        start += len(line)


def parse(line: bytes) -> tuple[Record | None, int]:
    """The record of a line, and how many torn bytes stand before it (all, if there is none).

    A writer that knew nothing of a torn line has put its record behind it, in the same line.
    """
    for start in (0, *(found.start() for found in _START.finditer(line, 1))):
        try:
            record = json.loads(line[start:])
        except ValueError:
            continue
        if isinstance(record, dict) and "op_code" in record:
            return record, start
    return None, len(line)
