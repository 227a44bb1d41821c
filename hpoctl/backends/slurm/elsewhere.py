"""Where else tasks that wait could run: under another QOS, in another partition or account.

Pure. Each differs from what the tasks ask for now in one thing, and is offered only where no limit
that is known keeps all of them from starting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from hpoctl.backends.slurm.jobs import Job
from hpoctl.fit import problem
from hpoctl.limits import (
    Cap,
    Demand,
    Limits,
    Measure,
    Nodes,
    association,
    caps,
    partition_named,
    quality,
    usage_factor,
)
from hpoctl.words import many

Offer = tuple[str, tuple[str, ...]]  # what it is in words, and the flags that choose it


def other_limits(job: Job, tasks: int, limits: Limits, room: Callable[[Cap], float]) -> list[Offer]:
    """The first QOS, partition or account of this user where no limit holds so many tasks back.

    `room` gives what is left of a limit.
    """
    offers = (*_qualities(job, limits), *_partitions(job, limits), *_accounts(job, limits))
    for ask, offer in offers:
        if _free(ask, job, tasks, limits, room):
            return [offer]
    return []


def other_nodes(job: Job, limits: Limits) -> list[Offer]:
    """The first other partition with an idle node on which such a task may start."""
    return [offer for _, offer in _partitions(job, limits)][:1]


def _qualities(job: Job, limits: Limits) -> Iterator[tuple[Demand, Offer]]:
    row = association(limits, job.demand, job.demand.partitions[0])
    for qos in sorted(limits.qos, key=lambda qos: (bool(qos.preempts), qos.usage_factor)):
        if row is None or qos.name not in row.qos or qos.name == job.qos:
            continue
        text = f"under QOS {qos.name} no limit holds them back"
        if qos.preempts:
            text += f"; they may preempt jobs of QOS {' and '.join(qos.preempts)}"
        if over := [other.name for other in limits.qos if qos.name in other.preempts]:
            text += f"; jobs of QOS {' and '.join(over)} may preempt them"
        if qos.usage_factor != 1:
            text += f"; their hours count {qos.usage_factor:g} times"
        yield replace(job.demand, qos=qos.name), (text, ("--qos", qos.name))


def _partitions(job: Job, limits: Limits) -> Iterator[tuple[Demand, Offer]]:
    for node in limits.nodes:
        where = partition_named(limits, node.partition)
        closed = where is None or not where.up or node.partition in job.demand.partitions
        if closed or node.state != "idle" or not _fits(job, node):
            continue
        ask = replace(job.demand, partitions=(node.partition,))
        if problem(ask, node.partition, limits) is None:
            text = f"partition {node.partition} has room: {many(node.count, 'idle node')}"
            if kinds := [kind for kind in node.gpus if kind and job.demand.gpus]:
                text += f", GPUs {' and '.join(kinds)}"
            yield ask, (text, ("--partition", node.partition))


def _fits(job: Job, node: Nodes) -> bool:
    """Whether an empty node has what a task asks for, by the type of GPU if the queue shows it."""
    has = {"gres/gpu": sum(node.gpus.values()), "cpu": node.cpus, "mem": node.mem_mb}
    has |= {f"gres/gpu:{kind.lower()}": count for kind, count in node.gpus.items()}
    asked = [name for name in job.needs if name in ("cpu", "mem") or name.startswith("gres/gpu")]
    return all(has.get(name, 0) >= job.needs[name] for name in asked)


def _accounts(job: Job, limits: Limits) -> Iterator[tuple[Demand, Offer]]:
    for name in dict.fromkeys(row.account for row in limits.associations):
        if name == job.account:
            continue
        ask = replace(job.demand, account=name, qos=None)
        qos = quality(limits, ask, ask.partitions[0])
        flags = ("--account", name, *(("--qos", qos) if qos else ()))
        yield replace(ask, qos=qos), (f"in account {name} no limit holds them back", flags)


def _free(ask: Demand, job: Job, tasks: int, limits: Limits, room: Callable[[Cap], float]) -> bool:
    """Whether so many such tasks are within every limit there; asks for room as late as it can."""
    where = ask.partitions[0]
    if problem(ask, where, limits) is not None:
        return False
    shared = [cap for cap in caps(limits, ask, where) if cap.shared]
    factor = usage_factor(limits, ask.qos)
    wanted = [(cap, tasks * cap.cost(job.needs, job.minutes, factor)) for cap in shared]
    return all(cap.value >= amount for cap, amount in wanted) and all(
        room(cap) >= amount
        for cap, amount in wanted
        if amount and cap.measure is not Measure.SUBMITTED
    )
