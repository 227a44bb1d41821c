"""What `hpoctl doctor` found out about a site."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    FAILS = "fails"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at: what is so, and the way out where it is not good."""

    what: str
    level: Level
    text: str
    way: str = ""


def ok(what: str, text: str) -> Finding:
    """It works."""
    return Finding(what=what, level=Level.OK, text=text)


def warning(what: str, text: str, way: str) -> Finding:
    """It works, with less."""
    return Finding(what=what, level=Level.WARNING, text=text, way=way)


def fails(what: str, text: str, way: str) -> Finding:
    """A sweep would not work."""
    return Finding(what=what, level=Level.FAILS, text=text, way=way)
