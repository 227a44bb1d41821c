"""Why tasks wait, in words, and what would let them start: what `hpoctl why` shows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a user may do, and what comes of it.

    `flags` are those of `hpoctl workers add STUDY`; `drain` says that the workers which run should
    be drained before. A change that is no command of hpoctl has none.
    """

    effect: str
    flags: tuple[str, ...] = ()
    drain: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Tasks that wait for the same `reason`, which is the batch system's word.

    `never` says that they will not start as they are.
    """

    reason: str
    arrays: tuple[str, ...]
    tasks: int
    text: str
    never: bool = False
    start: str | None = None
    changes: tuple[Change, ...] = ()
