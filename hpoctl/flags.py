"""Flags of sbatch that cannot stand in `resources.sbatch`: those with a key, and our own. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

_OWN_KEYS = {
    **{f"--{name}": name for name in ("partition", "account", "qos", "time", "mem")},
    "--cpus-per-task": "cpus",
}
_OURS = ("--array", "--dependency", "--open-mode", "--output", "--parsable", "--signal", "--wrap")


def refused(flags: Sequence[str]) -> Iterator[str]:
    """What is wrong with these, each with the way out."""
    for flag in flags:
        name = re.split("[= ]", flag)[0]
        if key := _OWN_KEYS.get(name):
            yield f"'{name}' has a key of its own, by which limits are checked: give '{key}'"
        elif name in _OURS:
            yield f"'{name}' is for hpoctl to set: leave it out"
