"""The queue with what its jobs ask for: one squeue, every task a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from hpoctl.backends.slurm import site
from hpoctl.backends.slurm.ask import ask
from hpoctl.errors import BatchSystemError
from hpoctl.limits import Cap, Demand

_COLUMNS = (
    "ArrayJobID",
    "State",
    "UserName",
    "Account",
    "QOS",
    "Partition",
    "TimeLimit",
    "TimeLeft",
    "StartTime",
    "tres-alloc",  # of a pending job: what it asks for, with its billing
    "Reason",  # last, as it is a sentence at times
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A task that waits or runs, and what it takes. Minutes are those of its walltime.

    squeue does not show how often its QOS counts them (`factor`), and that Slurm is some minutes
    late in counting those that are over (`late`).
    """

    array: str
    running: bool
    user: str
    account: str
    qos: str
    partition: str
    minutes: int
    minutes_left: int
    start: str | None
    needs: Mapping[str, float]
    reason: str
    factor: float = 1
    late: int = 0

    def cost(self, cap: Cap) -> float:
        """What it takes of a limit when it starts."""
        return cap.cost(self.needs, self.minutes, self.factor)

    def holds(self, cap: Cap) -> float:
        """What it takes of a limit now that it runs, at the most."""
        left = min(self.minutes, self.minutes_left + self.late)
        return cap.cost(self.needs, left, self.factor)

    @property
    def demand(self) -> Demand:
        """What it asked for, as far as the queue shows it."""
        return Demand(
            partitions=tuple(self.partition.split(",")),
            account=self.account,
            qos=self.qos,
            cpus=int(self.needs.get("cpu", 1)),
            mem_mb=self.needs.get("mem"),
            gpus=int(self.needs.get("gres/gpu", 0)),
            gpu_type=None,
            time=timedelta(minutes=self.minutes),
        )


def of_arrays(ids: Sequence[str]) -> tuple[Job, ...]:
    """The tasks of these arrays. Raises BatchSystemError where Slurm does not answer."""
    if not ids:
        return ()
    try:
        return _jobs([f"--jobs={','.join(ids)}"])
    except BatchSystemError as refused:
        if "Invalid job id" in str(refused):  # all ended so long ago that Slurm forgot them
            return ()
        raise


def running() -> tuple[Job, ...]:
    """All running tasks of the cluster, of whoever they are, as far as it shows them."""
    return tuple(job for job in _jobs([]) if job.running)


def counts(job: Job, cap: Cap, user: str) -> bool:
    """Whether a task counts against a limit of this user's."""
    under = job.partition in cap.partitions if cap.partitions else cap.qos in (None, job.qos)
    of_account = not cap.accounts or job.account in cap.accounts
    return under and of_account and (not cap.mine or job.user == user)


def scope(cap: Cap) -> list[str]:
    """The flags of squeue that show what counts against a limit."""
    return [
        *(["--me"] if cap.mine else []),
        *([f"--account={','.join(cap.accounts)}"] if cap.accounts else []),
        *([f"--partition={','.join(cap.partitions)}"] if cap.partitions else []),
        *([f"--qos={cap.qos}"] if cap.qos and not cap.partitions else []),
    ]


def _jobs(scope: Sequence[str]) -> tuple[Job, ...]:
    columns = ",".join(f"{name}:|" for name in _COLUMNS)
    flags = ["--array", "--noheader", "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED"]
    return parse(ask(["squeue", *scope, *flags, f"--Format={columns}"]))


def parse(text: str) -> tuple[Job, ...]:
    """The lines of squeue, its columns set off by `|`."""
    rows = [line.split("|", len(_COLUMNS) - 1) for line in text.splitlines()]
    return tuple(_job(row) for row in rows if len(row) == len(_COLUMNS))


def _job(row: Sequence[str]) -> Job:
    array, state, user, account, qos, partition, limit, rest, start, tres, reason = row
    minutes = site.minutes(limit) or 0
    return Job(
        array=array,
        running=state != "PENDING",
        user=user,
        account=account,
        qos=qos,
        partition=partition,
        minutes=minutes,
        minutes_left=minutes if state == "PENDING" else site.minutes(rest) or 0,
        start=_moment(start),
        needs=site.amounts(tres),
        reason=reason.rstrip("|"),
    )


def _moment(text: str) -> str | None:
    """`2026-11-21T23:31:22`, here, of seconds since 1970; or as squeue says it otherwise."""
    if text.isdigit():
        return datetime.fromtimestamp(int(text)).isoformat()
    return None if text in ("N/A", "") else text
