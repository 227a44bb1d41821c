"""When a running task will end, as Slurm has it now: its time limit may have been changed."""

from __future__ import annotations

from hpoctl.backends.slurm.ask import ask
from hpoctl.backends.slurm.notation import moment

_TIMEOUT_S = 5  # a trial's report may wait meanwhile


def ends_at(task: str) -> float | None:
    """The end of a task in seconds since 1970; None where it has none. Raises BatchSystemError."""
    question = ["squeue", "--noheader", f"--jobs={task}", "--format=%e"]
    return parse_end(ask(question, timeout_s=_TIMEOUT_S))


def parse_end(text: str) -> float | None:
    """squeue's `%e` of one task; `N/A` and `NONE` are no time."""
    return moment(text.strip())
