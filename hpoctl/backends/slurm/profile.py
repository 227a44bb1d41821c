"""A site in the words of a sweep file: what `hpoctl init` writes into `resources`."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hpoctl.backends.slurm import kept
from hpoctl.fit import span
from hpoctl.limits import Limits, Nodes, Partition


def profile() -> list[str]:
    """Lines below `resources:` as this cluster would have them; none without a cluster."""
    return list(lines(kept.read(time.time())))


def lines(limits: Limits) -> Iterator[str]:
    """The usual partition, account and GPUs, each with what else there is."""
    partition = usual(limits)
    if partition is None:
        return
    nodes = [node for node in limits.nodes if node.partition == partition.name]
    names = [other.name for other in limits.partitions]
    longest = f"up to {span(partition.max_minutes)}" if partition.max_minutes else "any time"
    yield f"  partition: {partition.name}   # {longest}; there are {', '.join(names)}"
    own = sorted({row.account for row in limits.associations})
    if account := limits.default_account or next(iter(own), None):
        yield f"  account: {account}   # yours: {', '.join(own)}"
    yield from _gpus(nodes)


def _gpus(nodes: list[Nodes]) -> Iterator[str]:
    kinds = {kind: count for node in nodes for kind, count in node.gpus.items()}
    if not kinds:
        yield "  # gpus: 1              # no node of this partition has one"
        return
    kind = max(kinds, key=lambda name: kinds[name])
    have = " or ".join(f"{count} {name}".strip() for name, count in kinds.items())
    asked = f"{kind}:1" if kind else "1"
    yield f"  gpus: {asked}   # a node has {have}; leave it out for work without a GPU"


def usual(limits: Limits) -> Partition | None:
    """The partition for a first sweep: with GPUs if there are any, the default one if it has."""
    with_gpus = {node.partition for node in limits.nodes if node.gpus}
    own = {row.account for row in limits.associations}
    fitting = [
        partition
        for partition in limits.partitions
        if partition.up and (not partition.allow_accounts or own & set(partition.allow_accounts))
    ]
    ranked = sorted(fitting, key=lambda p: (p.name not in with_gpus, not p.default))
    return ranked[0] if ranked else None
