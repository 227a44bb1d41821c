"""Values of a group of the sweep file, checked: what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence


def group(tree: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The group of this name; an empty one where it is not given."""
    found = tree.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{name}: is {found!r}, but must be a group of names and values")
    return found


def each(searched: Mapping[str, object], name: str) -> Iterator[tuple[str, object]]:
    """Name and value, one by one, of a group whose names have several values to be tried."""
    for parameter, values in group(searched, name).items():
        for value in values if isinstance(values, tuple) else ():
            yield parameter, value


def check_names(
    given: Mapping[str, object],
    known: Sequence[str],
    prefix: str = "",
    see: str = "TrainingArguments",
) -> None:
    """Raises ValueError for a name that is not known, with the nearest, or where to see all."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            every = f"known: {', '.join(known)}" if len(known) < 10 else f"see {see}"
            hint = f"did you mean '{close[0]}'?" if close else every
            raise ValueError(f"{prefix}{name}: unknown; {hint}")


def whole(name: str, value: object, least: int = 1) -> int:
    """A whole number from `least` on. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: is {value!r}, but must be a whole number from {least} on")
    return value


def share(name: str, value: object) -> float:
    """A number from 0 to below 1. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name}: is {value!r}, but must be a share: from 0 to below 1")
    return value
