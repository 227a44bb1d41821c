"""The results of `why` and `doctor`: delays as paragraphs and as JSON, findings as lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hpoctl.delay import Change, Delay
from hpoctl.finding import Finding

if TYPE_CHECKING:
    from hpoctl.control import Why


def why_text(why: Why) -> str:
    """A paragraph a reason."""
    parts = ["\n".join(_paragraph(delay, why.study)) for delay in why.delays]
    if why.unsubmitted:
        parts.append(
            f"{why.unsubmitted:,} tasks are not submitted yet: those that run submit them"
            " as others end"
        )
    if not parts:
        parts.append(_nothing(why))
    return "\n\n".join(parts)


def _nothing(why: Why) -> str:
    if why.live:
        return f"no task of '{why.study}' waits: {why.live} run"
    if why.waiting:
        add = f"hpoctl workers add {shlex.quote(why.study)} -n {min(why.waiting, 4)}"
        return f"no task of '{why.study}' is there, but {why.waiting} trials wait: {add}"
    return f"no task of '{why.study}' is there, and no trial waits"


def _paragraph(delay: Delay, study: str) -> Iterator[str]:
    tasks = f"{delay.tasks:,} task{'s' if delay.tasks > 1 else ''}"
    will = "never start" if delay.never else "wait"
    yield f"{tasks} of {', '.join(delay.arrays)} {will} ({delay.reason}): {delay.text}"
    if delay.start:
        yield f"  expected to start: {delay.start}"
    for change in delay.changes:
        yield f"  {change.effect}"
        yield from (f"    {command}" for command in commands(change, study))


def commands(change: Change, study: str) -> list[str]:
    """What to type for a change, in this order."""
    name = shlex.quote(study)
    drain = [f"hpoctl workers drain {name}"] if change.drain else []
    add = [f"hpoctl workers add {name} {shlex.join(change.flags)}"] if change.flags else []
    return [*drain, *add]


def why_shape(why: Why) -> dict[str, object]:
    """`why --json`."""
    return {
        "study": why.study,
        "live": why.live,
        "unsubmitted": why.unsubmitted,
        "delays": [
            {
                "reason": delay.reason,
                "arrays": delay.arrays,
                "tasks": delay.tasks,
                "text": delay.text,
                "never": delay.never,
                "start": delay.start,
                "changes": [
                    {"effect": change.effect, "commands": commands(change, why.study)}
                    for change in delay.changes
                ],
            }
            for delay in why.delays
        ],
    }


def finding_lines(found: Sequence[Finding]) -> Iterator[str]:
    """Each with its level first, so that a glance down the margin is enough."""
    width = max(len(finding.what) for finding in found)
    for finding in found:
        yield f"{finding.level:8}{finding.what:{width}}  {finding.text}"
        if finding.way:
            yield f"{'':{8 + width}}  -> {finding.way}"
