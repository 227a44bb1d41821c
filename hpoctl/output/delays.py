"""The results of `why` and `doctor`: delays as paragraphs and as JSON, findings as lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpoctl.delay import Change, Delay
from hpoctl.finding import Finding, Level
from hpoctl.output import Format, show_json
from hpoctl.words import many

if TYPE_CHECKING:
    from hpoctl.control import Why


def show_why(why: Why, form: Format) -> None:
    """`why`: a paragraph a reason, with what would help."""
    if form is Format.JSON:
        show_json(_why_shape(why))
    elif form is Format.QUIET:
        print("\n".join(delay.reason for delay in why.delays))
    else:
        print(_why_text(why))


def show_findings(found: Sequence[Finding], form: Format) -> None:
    """`doctor`: a line a finding, with the way out below it."""
    if form is Format.JSON:
        show_json([asdict(finding) for finding in found])
    elif form is Format.QUIET:
        print("\n".join(f.what for f in found if f.level is not Level.OK))
    else:
        print("\n".join(_finding_lines(found)))


def _why_text(why: Why) -> str:
    """A paragraph a reason."""
    parts = ["\n".join(_paragraph(delay, why.study)) for delay in why.delays]
    if why.unsubmitted:
        parts.append(
            f"not submitted yet: {many(why.unsubmitted, 'task')}; those that run submit them as"
            " others end"
        )
    if not parts:
        parts.append(_nothing(why))
    return "\n\n".join(parts)


def _nothing(why: Why) -> str:
    if why.live:
        return f"no task of '{why.study}' waits: {why.live} run"
    if why.waiting:
        add = f"hpoctl workers add {shlex.quote(why.study)} -n {min(why.waiting, 4)}"
        queued = many(why.waiting, "trial")
        return f"no task of '{why.study}' is there, and its queue holds {queued}: {add}"
    return f"no task of '{why.study}' is there, and no trial waits"


def _paragraph(delay: Delay, study: str) -> Iterator[str]:
    one = delay.tasks == 1
    will = ("never starts" if one else "never start") if delay.never else "waits" if one else "wait"
    jobs = f"{'jobs' if len(delay.arrays) > 1 else 'job'} {', '.join(delay.arrays)}"
    yield f"{many(delay.tasks, 'task')} of {jobs} {will} ({delay.reason}): {delay.text}"
    if delay.start:
        yield f"  expected to start: {delay.start}"
    for change in delay.changes:
        yield f"  {change.effect}"
        yield from (f"    {command}" for command in _commands(change, study))


def _commands(change: Change, study: str) -> list[str]:
    """What to type for a change, in this order."""
    name = shlex.quote(study)
    drain = [f"hpoctl workers drain {name}"] if change.drain else []
    add = [f"hpoctl workers add {name} {shlex.join(change.flags)}"] if change.flags else []
    return [*drain, *add]


def _why_shape(why: Why) -> dict[str, object]:
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
                    {"effect": change.effect, "commands": _commands(change, why.study)}
                    for change in delay.changes
                ],
            }
            for delay in why.delays
        ],
    }


def _finding_lines(found: Sequence[Finding]) -> Iterator[str]:
    """Each with its level first, so that a glance down the margin is enough."""
    width = max(len(finding.what) for finding in found)
    for finding in found:
        yield f"{finding.level:8}{finding.what:{width}}  {finding.text}"
        if finding.way:
            yield f"{'':{8 + width}}  -> {finding.way}"
