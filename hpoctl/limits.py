"""What a batch system allows, as frozen values, and what of it holds for one worker. Pure.

Filled by `backends/`, which may leave out whatever it cannot learn: a limit that is not known
refuses nothing. Which limit wins where two stand: https://slurm.schedmd.com/resource_limits.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpoctl.sweep import Resources

_OWN_RULES = (
    *("--partition", "--account", "--qos", "--time", "--gres", "--gpus", "--mem", "--nodes"),
    *("--ntasks", "--clusters", "--cpus", "--exclusive", "--reservation"),
)
_MB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


class Measure(StrEnum):
    """What a limit counts; `resources` are named by the limit, as in `gres/gpu`."""

    JOBS = "running tasks"
    SUBMITTED = "submitted tasks"
    RESOURCES = "resources of running tasks"
    MINUTES = "resources x walltime left of running tasks, in minutes"
    GRANT = "resources x time, in minutes, of all tasks that have run or run"
    EACH = "resources of one task"
    MINUTES_EACH = "resources x walltime of one task, in minutes"
    WALLTIME = "minutes of one task"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """One limit: `name` in the batch system's words, `holder` in ours, such as 'account lab'.

    It counts the tasks of `accounts` (empty: of all) under `qos` (None: under any), of all users or
    only of this one. That of a partition's QOS counts those in `partitions`, of any QOS.
    Two caps of one `kind` do not add up: the one that comes first wins.

    Of a grant `value` is what is left, and `granted` what there was.
    """

    name: str
    holder: str
    measure: Measure
    value: int
    resource: str = ""
    accounts: tuple[str, ...] = ()
    qos: str | None = None
    mine: bool = False
    partitions: tuple[str, ...] = ()
    granted: int | None = None

    @property
    def most(self) -> int:
        """What no task alone may ever pass."""
        return self.value if self.granted is None else self.granted

    @property
    def in_minutes(self) -> bool:
        """Whether it counts resources x minutes."""
        return self.measure in (Measure.MINUTES, Measure.GRANT, Measure.MINUTES_EACH)

    @property
    def kind(self) -> tuple[str, str]:
        """MaxJobs of an association and MaxJobsPU of a QOS are one kind."""
        counts = self.measure in (Measure.JOBS, Measure.SUBMITTED)
        return self.name.removesuffix("PU") if counts else self.name, self.resource

    def cost(self, needs: Mapping[str, float], minutes: float, factor: float) -> float:
        """What a task with these resources, this walltime and this usage factor takes of it."""
        match self.measure:
            case Measure.JOBS | Measure.SUBMITTED:
                return 1
            case Measure.WALLTIME:
                return minutes
        each = needs.get(self.resource, 0)
        return each * minutes * factor if self.in_minutes else each

    @property
    def shared(self) -> bool:
        """Whether several tasks fill it together."""
        return self.measure not in (Measure.EACH, Measure.MINUTES_EACH, Measure.WALLTIME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A queue of the cluster. Empty tuples allow all; `weights` make the billing of a task."""

    name: str
    default: bool = False
    up: bool = True
    max_minutes: int | None = None
    qos: str | None = None
    allow_accounts: tuple[str, ...] = ()
    deny_accounts: tuple[str, ...] = ()
    allow_qos: tuple[str, ...] = ()
    deny_qos: tuple[str, ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    mb_per_cpu: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Nodes of one partition that are alike; `gpus` by type, '' where they have none."""

    partition: str
    count: int
    cpus: int
    mem_mb: int
    gpus: Mapping[str, int] = field(default_factory=dict)
    state: str = "idle"


@dataclass(frozen=True, slots=True, kw_only=True)
class Qos:
    """A quality of service: its limits, and whether it lifts or overrules a partition's.

    Its jobs send those of `preempts` away; an hour of theirs counts `usage_factor` times.
    """

    name: str
    flags: tuple[str, ...] = ()
    preempts: tuple[str, ...] = ()
    usage_factor: float = 1
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """This user in one account, in one partition (None: in all)."""

    account: str
    partition: str | None = None
    qos: tuple[str, ...] = ()
    default_qos: str | None = None
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account with the limits of all its users together, below `parent`."""

    name: str
    parent: str | None = None
    caps: tuple[Cap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The one machine that all tasks run on, where nobody else divides it among them."""

    cpus: int
    gpus: int

    def holds(self, resources: Resources) -> int:
        """How many such tasks it has room for, or one that is too large for it."""
        fitting = self.cpus // resources.cpus
        if each := resources.gpus.count:
            fitting = min(fitting, self.gpus // each)
        return max(1, fitting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the batch system allows; None and empty where it sets no limit or did not say.

    It may be `recount_minutes` late in seeing that running tasks have less walltime left.
    """

    version: str | None = None
    machine: Machine | None = None
    tasks_per_array: int | None = None
    tasks_in_all: int | None = None
    user: str = ""
    enforced: frozenset[str] = frozenset()
    highest_weight_bills: bool = False
    recount_minutes: int = 0
    default_account: str | None = None
    partitions: tuple[Partition, ...] = ()
    nodes: tuple[Nodes, ...] = ()
    associations: tuple[Association, ...] = ()
    accounts: tuple[Account, ...] = ()
    qos: tuple[Qos, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What one worker asks for. `partitions` are offers, the first that starts wins."""

    partitions: tuple[str, ...]
    account: str | None
    qos: str | None
    cpus: int
    mem_mb: float | None
    gpus: int
    gpu_type: str | None
    time: timedelta
    exclude_checks: bool = False

    @property
    def minutes(self) -> int:
        """The walltime as Slurm counts it."""
        return math.ceil(self.time / timedelta(minutes=1))


def demand(resources: Resources, limits: Limits) -> Demand:
    """What a worker with these resources asks for, with this user's defaults filled in."""
    default = next((p.name for p in limits.partitions if p.default), None)
    named = resources.partition.split(",") if resources.partition else [default] if default else []
    account = resources.account or limits.default_account
    return Demand(
        partitions=tuple(named),
        account=account,
        qos=resources.qos,
        cpus=resources.cpus,
        mem_mb=megabytes(resources.mem) if resources.mem else None,
        gpus=resources.gpus.count,
        gpu_type=resources.gpus.type,
        time=resources.time,
        exclude_checks=any(flag.startswith(_OWN_RULES) for flag in resources.sbatch),
    )


def megabytes(text: str) -> float:
    """`16G`, `800M`, `900` of Slurm, in megabytes."""
    unit = text[-1] if text[-1] in _MB else ""
    return float(text.removesuffix(unit)) * _MB[unit or "M"]


def needs(ask: Demand, partition: Partition | None, limits: Limits) -> dict[str, float]:
    """A worker's resources by Slurm's names, its billing by the partition's weights."""
    found: dict[str, float] = {"cpu": ask.cpus, "node": 1}
    if ask.gpus:
        found["gres/gpu"] = ask.gpus
        if ask.gpu_type:
            found[f"gres/gpu:{ask.gpu_type.lower()}"] = ask.gpus
    mem = ask.mem_mb
    if mem is None and partition is not None and partition.mb_per_cpu:
        mem = partition.mb_per_cpu * ask.cpus
    if mem is not None:
        found["mem"] = mem
    found["billing"] = _billing(found, partition, limits)
    return found


def _billing(found: Mapping[str, float], partition: Partition | None, limits: Limits) -> float:
    weights = partition.weights if partition else {}
    if not weights:
        return found["cpu"]
    parts = [found.get(name, 0) * weight for name, weight in weights.items()]
    return math.floor(max(parts) if limits.highest_weight_bills else sum(parts))


def partition_named(limits: Limits, name: str) -> Partition | None:
    """A partition by its name, where the site told."""
    return next((p for p in limits.partitions if p.name == name), None)


def association(limits: Limits, ask: Demand, partition: str | None) -> Association | None:
    """This user's row for the account, the partition's own before the general one."""
    rows = [row for row in limits.associations if row.account == ask.account]
    own = [row for row in rows if row.partition is not None and row.partition == partition]
    return next(iter([*own, *(row for row in rows if row.partition is None)]), None)


def quality(limits: Limits, ask: Demand, partition: str | None) -> str | None:
    """The QOS that a worker runs under: the one it names, or its association's default."""
    row = association(limits, ask, partition)
    if ask.qos or row is None:
        return ask.qos
    only = row.qos[0] if len(row.qos) == 1 else None
    return row.default_qos or only or ("normal" if "normal" in row.qos else None)


def usage_factor(limits: Limits, qos: str | None) -> float:
    """How often a minute under a QOS counts against limits on running minutes, of whatever holder.

    A QOS of the partition does not matter (seen of Slurm 22.05).
    """
    return next((known.usage_factor for known in limits.qos if known.name == qos), 1)


def caps(limits: Limits, ask: Demand, partition: str | None) -> tuple[Cap, ...]:
    """The limits that hold for a worker there, without those that a stronger one overrules."""
    if "limits" not in limits.enforced:
        return _cluster_caps(limits)
    known = {qos.name: qos for qos in limits.qos}
    where = partition_named(limits, partition) if partition else None
    of_partition = _of_partition(limits, known.get(where.qos)) if where and where.qos else None
    of_job = known.get(quality(limits, ask, partition) or "")
    both = [qos for qos in (of_partition, of_job) if qos is not None]
    if of_job is not None and "OverPartQOS" in of_job.flags:
        both.reverse()
    strong: dict[tuple[str, str], Cap] = {}
    for qos in both:
        for cap in qos.caps:
            whose = (ask.account or "",) if cap.name.endswith("PA") else cap.accounts
            strong.setdefault(cap.kind, replace(cap, accounts=whose))
    weak = [cap for cap in _association_caps(limits, ask, partition) if cap.kind not in strong]
    return (*strong.values(), *weak, *_cluster_caps(limits))


def _of_partition(limits: Limits, qos: Qos | None) -> Qos | None:
    """A QOS as that of the partitions which have it for all their tasks."""
    if qos is None:
        return None
    names = tuple(p.name for p in limits.partitions if p.qos == qos.name)
    of = f"of partition {' and '.join(names)}"
    return replace(
        qos,
        caps=tuple(replace(cap, holder=f"{cap.holder} {of}", partitions=names) for cap in qos.caps),
    )


def _association_caps(limits: Limits, ask: Demand, partition: str | None) -> Iterator[Cap]:
    """Those of the user, then of the account and all above it: each of them holds."""
    if row := association(limits, ask, partition):
        yield from row.caps
    for account in above(limits, ask.account):
        yield from account.caps


def above(limits: Limits, name: str | None) -> Iterator[Account]:
    """An account and those above it, the topmost last."""
    known = {account.name: account for account in limits.accounts}
    account = known.pop(name or "", None)
    while account is not None:
        yield account
        account = known.pop(account.parent or "", None)


def _cluster_caps(limits: Limits) -> tuple[Cap, ...]:
    if limits.tasks_in_all is None:
        return ()
    value, measure = limits.tasks_in_all, Measure.SUBMITTED
    return (Cap(name="MaxJobCount", holder="this cluster", measure=measure, value=value),)


def walltime_caps(limits: Limits, ask: Demand, partition: str | None) -> tuple[Cap, ...]:
    """What bounds the walltime of one task: the partition, unless the QOS lifts that; the QOS."""
    found = [c for c in caps(limits, ask, partition) if c.measure is Measure.WALLTIME]
    where = partition_named(limits, partition) if partition else None
    job_qos = quality(limits, ask, partition)
    lifted = any("PartitionTimeLimit" in q.flags for q in limits.qos if q.name == job_qos)
    if where is not None and where.max_minutes is not None and not lifted:
        holder, value = f"partition {where.name}", where.max_minutes
        found.append(Cap(name="MaxTime", holder=holder, measure=Measure.WALLTIME, value=value))
    return tuple(found)
