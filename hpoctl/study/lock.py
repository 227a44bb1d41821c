"""One writer at a time on a journal: Optuna's lock, which a killed holder gives back at once.

Two things are held. The kernel's lock on an empty file of this node, `<journal>.lock-<node>`, ends
with the process that holds it. Optuna's symbolic link `<journal>.lock` keeps out other nodes and
Optuna's own workers; ours points to the node's file. So whoever has the node's lock and finds a
link of this node knows that its maker is gone, and goes on under it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import random
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

STOPPED_S = 10.0  # until a holder on this node that lives and does nothing is passed over
SILENT_S = 30.0  # the same for another node's holder, or Optuna's own; as long as Optuna waits
_LONGEST_PAUSE_S = 0.05

_Seen = tuple[int, ...] | None


class LockLost(Exception):
    """The lock was taken from its holder, which had been stopped for too long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """The lock while it is held."""

    link: Path
    mark: Path
    number: int  # the open file of this node, which the kernel's lock is on
    made: _Seen  # the link that is ours

    def check(self) -> None:
        """Raises LockLost if somebody else went on meanwhile; to be asked before each write."""
        if not _is_open_file(self.mark, self.number) or _identity(self.link) != self.made:
            raise LockLost

    def release(self) -> None:
        """Lets the next one in; leaves what is not ours any more."""
        try:
            self.check()
            self.link.unlink()
        except (LockLost, FileNotFoundError):
            pass
        finally:
            os.close(self.number)


@dataclass(slots=True)
class FileLock:
    """Excludes other processes, on this node and others, from writing to one file."""

    path: Path
    stopped_s: float = STOPPED_S
    silent_s: float = SILENT_S
    link: Path = field(init=False)
    mark: Path = field(init=False)

    def __post_init__(self) -> None:
        self.link = self.path.with_name(f"{self.path.name}.lock")
        self.mark = self.path.with_name(f"{self.path.name}.lock-{_this_node()}")

    @contextmanager
    def held(self) -> Iterator[Hold]:
        """Waits for the lock and holds it. Raises OSError where the folder takes no files."""
        number, certain = self._lock_node()
        try:
            made = self._lock_link(number, certain=certain)
        except BaseException:
            os.close(number)
            raise
        hold = Hold(link=self.link, mark=self.mark, number=number, made=made)
        try:
            yield hold
        finally:
            hold.release()

    def _lock_node(self) -> tuple[int, bool]:
        """The node's file, locked; and whether the kernel could lock it at all."""
        wait = _Wait()
        while True:
            number = os.open(self.mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(number)
            except OSError:  # Lustre without the option `flock`, some NFS: the link must do
                return number, False
            else:
                if _is_open_file(self.mark, number):
                    return number, True
                os.close(number)  # the file was replaced while we waited
                continue
            mark = _identity(self.mark)
            size = self.path.stat().st_size
            patience = self.stopped_s
            if self._target() not in (None, self.mark.name):  # its holder waits for another's link
                patience += self.silent_s
            if wait.has_lasted(patience, (mark, _identity(self.link), size)):
                log.warning("%s: its holder on this node stands still: going on", self.link)
                _remove(self.mark, mark)
            wait.pause()

    def _lock_link(self, number: int, *, certain: bool) -> _Seen:
        wait = _Wait()
        target = self.mark.name if certain else self.path.name
        while True:
            # Optuna's workers look at the time of what the link points to: a new holder, a new one.
            os.utime(number)
            try:
                self.link.symlink_to(target)
                return _identity(self.link)
            except FileExistsError:
                made = _identity(self.link)
            if made is None:
                continue
            if certain and self._target() == self.mark.name:
                return made
            if wait.has_lasted(self.silent_s, made):
                log.warning("%s: not released for %.0f s: going on", self.link, self.silent_s)
                _remove(self.link, made)
            wait.pause()

    def _target(self) -> str | None:
        try:
            return str(self.link.readlink())
        except FileNotFoundError:
            return None
        except OSError:
            return ""  # a file, as JournalFileOpenLock makes it


@dataclass(slots=True)
class _Wait:
    """Waiting for somebody who may never come."""

    seen: object = None
    since: float = 0.0
    pause_s: float = 0.0005

    def has_lasted(self, patience_s: float, seen: object) -> bool:
        """Whether nothing has changed for so long."""
        now = time.monotonic()
        if seen != self.seen:
            self.seen, self.since = seen, now
        return now - self.since > patience_s

    def pause(self) -> None:
        time.sleep(self.pause_s * random.uniform(0.5, 1.5))
        self.pause_s = min(self.pause_s * 2, _LONGEST_PAUSE_S)


def _this_node() -> str:
    """Names one start of one node, as containers on several nodes may share a host name."""
    name = os.uname().nodename
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return f"{name}-{boot[:8]}"
    return name


def _identity(path: Path) -> _Seen:
    """Which file or link this is; inode numbers come again, with another time."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return found.st_dev, found.st_ino, found.st_mtime_ns
    return found.st_dev, found.st_ino


def _is_open_file(path: Path, number: int) -> bool:
    opened = os.fstat(number)
    return _identity(path) == (opened.st_dev, opened.st_ino)


def _remove(path: Path, seen: _Seen) -> None:
    """Removes a file or link, unless another has come in its place; safe against two at once."""
    if _identity(path) != seen:
        return
    aside = path.with_name(f"{path.name}{uuid.uuid4()}.rename")  # as Optuna names it
    with suppress(FileNotFoundError):
        path.rename(aside)
        aside.unlink()
