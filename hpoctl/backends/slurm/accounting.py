"""What sacct says of a run's tasks, those of earlier lives too: one question for all arrays.

It comes late by seconds, is purged after months, and many sites have none.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpoctl.backends.slurm.ask import NotHere, ask_patiently
from hpoctl.backends.slurm.notation import gpus, moment
from hpoctl.backends.slurm.shared import last, shared
from hpoctl.errors import BatchSystemError
from hpoctl.record import Charge, TaskState
from hpoctl.rundir import RunDir

_COLUMNS = ("JobID", "Submit", "Start", "End", "State", "ElapsedRaw", "AllocTRES", "ReqTRES")


def charges(
    ids: Sequence[str], run_dir: RunDir, *, newer_than: float, timeout_s: float
) -> tuple[Charge, ...]:
    """Every life of every task of these arrays that accounting knows, in the order of their starts.

    Raises NotHere where there is no accounting, BatchSystemError where it does not answer.
    """
    if not ids:
        return ()
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", "--duplicates"]
    argv += [f"--jobs={','.join(ids)}", f"--format={','.join(_COLUMNS)}"]
    answer = shared(
        run_dir.asked("sacct"),
        argv,
        lambda left_s: _ask(argv, left_s),
        newer_than=newer_than,
        timeout_s=timeout_s,
    )
    return _ours(answer.text, run_dir)


def remembered(run_dir: RunDir) -> tuple[Charge, ...] | None:
    """What somebody was told earlier; None if nobody was."""
    known = last(run_dir.asked("sacct"))
    return None if known is None else _ours(known.text, run_dir)


def _ours(text: str, run_dir: RunDir) -> tuple[Charge, ...]:
    """The charges of the run itself, not of jobs that had its ids before Slurm's were reset."""
    known = {submission.id: submission.at for submission in run_dir.submissions()}
    return tuple(
        charge
        for submitted_at, charge in parse(text)
        if submitted_at >= known.get(charge.task.partition("_")[0], 0.0) - _RESET_S
    )


_RESET_S = 3600.0  # between the clocks of slurmctld and of who submitted


def _ask(argv: list[str], timeout_s: float) -> str:
    try:
        return ask_patiently(argv, timeout_s=timeout_s)
    except BatchSystemError as refused:
        if "accounting storage is disabled" in str(refused):
            raise NotHere(str(refused)) from refused
        raise


def parse(text: str) -> list[tuple[float, Charge]]:
    """When each life was submitted, and the life; those that have begun, by their start."""
    found = []
    for line in text.splitlines():
        cells = line.split("|")
        if len(cells) != len(_COLUMNS):
            continue
        task, submit, start, end, state, elapsed, granted, requested = cells
        started_at = moment(start)
        if started_at is None or not task.partition("_")[2].isdigit():  # 12_[4-7%4] waits
            continue
        charge = Charge(
            task=task,
            state=TaskState(state.partition(" ")[0].rstrip("+")),  # CANCELLED by 1000
            started_at=started_at,
            ended_at=moment(end),
            elapsed_s=float(elapsed) if elapsed.isdigit() else 0.0,
            # Slurm 22.05 leaves out the GPUs of what it starts after its controller was restarted.
            gpus=gpus(requested) if (known := gpus(granted)) is None else known,
        )
        found.append((moment(submit) or 0.0, charge))
    return sorted(found, key=lambda life: (life[1].started_at, life[1].task))
