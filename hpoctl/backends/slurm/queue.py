"""What squeue says of a run's tasks: one question for all arrays, its answer shared for seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hpoctl.backends.slurm.ask import ask_patiently
from hpoctl.backends.slurm.fate import ENDED
from hpoctl.backends.slurm.notation import gpus, moment
from hpoctl.backends.slurm.shared import shared
from hpoctl.errors import BatchSystemError
from hpoctl.record import Look, TaskRecord, TaskState
from hpoctl.rundir import RunDir

# Columns of a fixed width, since before 21.08 squeue had no separator for `-O`, and `-o` has no
# letter for the restarts. One that is full is cut.
_COLUMNS = {
    "ArrayJobID": 16,
    "ArrayTaskID": 16,
    "State": 20,
    "RestartCnt": 12,
    "StartTime": 24,
    "EndTime": 24,
    "tres-alloc": 256,
    "NodeList": 128,
    "Reason": 200,
}
FORMAT = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())


def look(ids: Sequence[str], run_dir: RunDir, *, newer_than: float, timeout_s: float) -> Look:
    """All tasks of these arrays that Slurm still knows; see `shared` for what it raises."""
    if not ids:
        return Look()
    argv = ["squeue", "--noheader", "--array", f"--jobs={','.join(ids)}", "--states=all"]
    argv.append(f"--Format={FORMAT}")
    answer = shared(
        run_dir.asked("squeue"),
        argv,
        lambda left_s: _ask(argv, left_s),
        newer_than=newer_than,
        timeout_s=timeout_s,
    )
    return Look(tasks=parse(answer.text), asked_at=answer.asked_at, silence=answer.silence)


def _ask(argv: list[str], timeout_s: float) -> str:
    try:
        return ask_patiently(argv, timeout_s=timeout_s)
    except BatchSystemError as refused:
        if "Invalid job id" in str(refused):  # ended so long ago that Slurm forgot it
            return ""
        raise


def parse(text: str) -> tuple[TaskRecord, ...]:
    """The tasks in lines of `FORMAT`; other lines, such as warnings, are passed over."""
    found = (_cells(line) for line in text.splitlines())
    return tuple(
        TaskRecord(
            task=f"{array}_{index}",
            state=TaskState(state),
            restarts=int(restarts) if restarts.isdigit() else 0,
            gpus=gpus(tres),
            started_at=None if state == TaskState.PENDING else moment(start),
            ended_at=moment(end) if state in ENDED else None,  # else when its walltime will be over
            node=node or None,
            reason=None if reason in ("", "None") else reason,
        )
        for array, index, state, restarts, start, end, tres, node, reason in found
        if array.isdigit() and index.isdigit()
    )


def _cells(line: str) -> Iterator[str]:
    at = 0
    for width in _COLUMNS.values():
        cell = line[at : at + width].strip()
        yield "" if cell in ("(null)", "N/A") else cell
        at += width
