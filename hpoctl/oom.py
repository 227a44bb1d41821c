"""How often the kernel has killed a process of this cgroup for want of memory.

A SIGKILL has many senders; only this counter tells Linux's own. Source: memory.events in
https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.oom_control in its version 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def kills(root: Path = Path("/")) -> int | None:
    """The counter of this process's memory cgroup; None where there is none to be read."""
    try:
        text = (root / "proc/self/cgroup").read_text()
    except OSError:
        return None
    for path in _counters(root / "sys/fs/cgroup", text):
        try:
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
        except OSError:
            continue
        if found:
            return int(found[1])
    return None


def _counters(mounted: Path, text: str) -> Iterator[Path]:
    """Where the counter may be, from the lines `id:controllers:path` of /proc/self/cgroup."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if "memory" in controllers.split(","):
            yield mounted / "memory" / inside / "memory.oom_control"
        elif not controllers:
            yield mounted / inside / "memory.events"


def said_of_a_kill(before: int | None) -> tuple[bool, str]:
    """Whether a SIGKILL was for want of memory, and a hint in words.

    `before` is the counter when the killed process was started.
    """
    now = kills()
    if before is None or now is None:
        return False, " (out of memory?)"
    return now > before, " (out of memory)" if now > before else ""
