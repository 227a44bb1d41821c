"""Fits a plan into what the batch system allows: refuses what can never start, splits, notes.

Pure. A worker that is refused here would be accepted by Slurm and wait for ever, or be turned away
without a word on the value that passes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from hpoctl.errors import ConfigError
from hpoctl.limits import (
    Cap,
    Demand,
    Limits,
    Measure,
    Nodes,
    Partition,
    association,
    caps,
    demand,
    needs,
    partition_named,
    quality,
    usage_factor,
    walltime_caps,
)
from hpoctl.plan import JobArray, Plan
from hpoctl.words import many, nearest

if TYPE_CHECKING:
    from hpoctl.sweep import Resources

_FED = 4  # pieces of a submission that is fed in which may wait or run at the same time


def refuse(resources: Resources, limits: Limits) -> None:
    """Raises ConfigError for a worker that no partition it names will ever start."""
    ask = demand(resources, limits)
    if ask.exclude_checks:  # its own flags say something that we do not read
        return
    problems = [problem(ask, offer, limits) for offer in ask.partitions or (None,)]
    if all(problems):
        raise ConfigError(next(text for text in problems if text))


def problem(ask: Demand, offer: str | None, limits: Limits) -> str | None:
    """What keeps a worker from ever starting in a partition, if anything does."""
    return next(_problems(ask, offer, limits), None)


def _problems(ask: Demand, offer: str | None, limits: Limits) -> Iterator[str]:
    """All that does, the first reason first."""
    where = partition_named(limits, offer) if offer else None
    if offer and where is None and limits.partitions:
        hint = nearest(offer, [partition.name for partition in limits.partitions])
        yield f"resources.partition: no partition '{offer}' on this cluster; {hint}"
        return
    if offer is None and limits.partitions:
        names = ", ".join(partition.name for partition in limits.partitions)
        yield f"resources.partition is missing and none is the default one: there are {names}"
    yield from _account_problems(ask, where, limits)
    yield from _qos_problems(ask, where, limits)
    if offer is not None:
        yield from _node_problems(ask, [n for n in limits.nodes if n.partition == offer], offer)
    yield from _walltime_problems(ask, offer, limits)
    yield from _cap_problems(ask, where, limits)


def _account_problems(ask: Demand, where: Partition | None, limits: Limits) -> Iterator[str]:
    own = sorted({row.account for row in limits.associations})
    if ask.account and own and "associations" in limits.enforced and ask.account not in own:
        hint = nearest(ask.account, own)
        yield f"resources.account: '{ask.account}' is no account of {limits.user}; {hint}"
    if where is None or ask.account is None:
        return
    allowed, denied = where.allow_accounts, where.deny_accounts
    if (allowed and ask.account not in allowed) or ask.account in denied:
        fitting = sorted(set(own) & set(allowed)) if allowed else sorted(set(own) - set(denied))
        way = f"use account: {fitting[0]}" if fitting else "use another partition"
        yield f"resources.partition: '{where.name}' is not for account '{ask.account}': {way}"


def _qos_problems(ask: Demand, where: Partition | None, limits: Limits) -> Iterator[str]:
    known = [qos.name for qos in limits.qos]
    if ask.qos and known and ask.qos not in known:
        yield f"resources.qos: no QOS '{ask.qos}' on this cluster; {nearest(ask.qos, known)}"
        return
    row = association(limits, ask, where.name if where else None)
    if ask.qos and row is not None and row.qos and ask.qos not in row.qos:
        may = ", ".join(row.qos)
        yield f"resources.qos: account '{row.account}' may not use '{ask.qos}', only {may}"
    qos = quality(limits, ask, where.name if where else None)
    if where is None or qos is None:
        return
    if (where.allow_qos and qos not in where.allow_qos) or qos in where.deny_qos:
        may = f"use qos: {where.allow_qos[0]}" if where.allow_qos else "use another qos"
        yield f"resources.qos: partition '{where.name}' takes no jobs of QOS '{qos}': {may}"


def _node_problems(ask: Demand, nodes: Sequence[Nodes], partition: str) -> Iterator[str]:
    """What no single node of the partition has, however empty."""
    if not nodes:
        return
    kinds = sorted({kind for node in nodes for kind in node.gpus if kind})
    if ask.gpu_type and kinds and ask.gpu_type not in kinds:
        hint = nearest(ask.gpu_type.lower(), kinds)
        what = f"has no GPUs of type '{ask.gpu_type}'; {hint}"
        yield f"resources.gpus: partition '{partition}' {what}"
        return
    most_gpus = max(_gpus(ask, node) for node in nodes)
    if ask.gpus > most_gpus:
        kind = f"{ask.gpu_type}:" if ask.gpu_type else ""
        way = f"use gpus: {kind}{most_gpus}" if most_gpus else "use another partition"
        yield (
            f"resources.gpus: one worker asks for {ask.gpus}, a node of partition '{partition}'"
            f" has {most_gpus or 'none'}: {way}"
        )
        return
    fitting = [node for node in nodes if _gpus(ask, node) >= ask.gpus]
    cpus, mem = max(node.cpus for node in fitting), max(node.mem_mb for node in fitting)
    if ask.cpus > cpus:
        where = f"a node of partition '{partition}' has {cpus}"
        yield f"resources.cpus: one worker asks for {ask.cpus}, {where}: use cpus: {cpus}"
    if ask.mem_mb is not None and ask.mem_mb > mem:
        where = f"a node of partition '{partition}' has {mem} MB"
        yield f"resources.mem: one worker asks for {ask.mem_mb:.0f} MB, {where}: use mem: {mem}M"
    if not any(node.cpus >= ask.cpus and node.mem_mb >= (ask.mem_mb or 0) for node in fitting):
        sizes = " or ".join(f"{n.cpus} CPUs and {n.mem_mb} MB" for n in fitting)
        yield f"resources: no node of partition '{partition}' has all that is asked for: {sizes}"


def _gpus(ask: Demand, node: Nodes) -> int:
    """How many GPUs that a worker can use the node has."""
    if ask.gpu_type is None or set(node.gpus) <= {""}:
        return max(node.gpus.values(), default=0) if ask.gpu_type else sum(node.gpus.values())
    return sum(n for kind, n in node.gpus.items() if kind == ask.gpu_type)


def places(ask: Demand, limits: Limits) -> float:
    """How many such workers the nodes there hold at once; infinite where no node is known."""
    there = [node for node in limits.nodes if node.partition in ask.partitions]
    if not there:
        return math.inf
    usable = [node for node in there if not node.state.startswith(("down", "drain", "fail"))]
    return sum(node.count * _workers_on(ask, node) for node in usable)


def _workers_on(ask: Demand, node: Nodes) -> int:
    bounds = [node.cpus // max(1, ask.cpus)]
    if ask.gpus:
        bounds.append(_gpus(ask, node) // ask.gpus)
    if ask.mem_mb:
        bounds.append(int(node.mem_mb // ask.mem_mb))
    return min(bounds)


def _walltime_problems(ask: Demand, offer: str | None, limits: Limits) -> Iterator[str]:
    found = walltime_caps(limits, ask, offer)
    if found and ask.minutes > (least := min(found, key=lambda cap: cap.value)).value:
        allowed = span(least.value)
        verb = "may have" if least.mine else "allows"
        yield (
            f"resources.time is {span(ask.minutes)}, {least.holder} {verb} {allowed}"
            f" ({least.name}): use time: {allowed}"
        )


def _cap_problems(ask: Demand, where: Partition | None, limits: Limits) -> Iterator[str]:
    """Limits that one worker alone would pass."""
    offer, has = where.name if where else None, needs(ask, where, limits)
    qos = quality(limits, ask, offer)
    factor = usage_factor(limits, qos)
    for cap in caps(limits, ask, offer):
        cost = cap.cost(has, ask.minutes, factor)
        if cap.measure is Measure.WALLTIME or cost <= cap.most:
            continue
        each = has.get(cap.resource, 1)
        if cap.in_minutes:
            longest = int(cap.value / (each * factor))
            way = f"use time: {span(longest)}" if longest else "ask for less"
            asks = f"{_number(each)} {unit(cap)} for {span(ask.minutes)}{how_counted(qos, factor)}"
            minutes = f"{_number(cost)} {unit(cap)}-minutes"
            text = f"one worker asks for {asks}, {minutes}; {allowance(cap)}: {way}"
        else:
            asks = f"one worker asks for {_number(each)} {unit(cap)}"
            value = f"{cap.value}{'M' if cap.resource == 'mem' else ''}"
            way = f"use {_key(cap)}: {value}" if cap.value else "use another account or qos"
            text = f"{asks}; {allowance(cap)}: {way}"
        yield f"resources: {text}"


def _key(cap: Cap) -> str:
    """The key of `resources` to lower."""
    family = cap.resource.partition(":")[0]
    return {"gres/gpu": "gpus", "cpu": "cpus", "mem": "mem"}.get(family, "resources of at most")


def allowance(cap: Cap) -> str:
    """A limit in words."""
    grant = f"{cap.value:,} of {cap.most:,} {unit(cap)}-minutes"
    what = {
        Measure.JOBS: f"may run {cap.value:,} tasks at once",
        Measure.SUBMITTED: f"may have {cap.value:,} tasks submitted",
        Measure.RESOURCES: f"may use {cap.value:,} {unit(cap)} at once",
        Measure.MINUTES: f"may have {cap.value:,} {unit(cap)}-minutes running",
        Measure.GRANT: f"{'have' if cap.mine else 'has'} {grant} left",
        Measure.EACH: f"allows a task {cap.value:,} {unit(cap)}",
        Measure.MINUTES_EACH: f"allows a task {cap.value:,} {unit(cap)}-minutes",
        Measure.WALLTIME: f"allows a task {span(cap.value)}",
    }[cap.measure]
    return f"{cap.holder} {what} ({cap.name})"


def how_counted(qos: str | None, factor: float) -> str:
    """How a QOS counts minutes, where it is not once."""
    return "" if factor == 1 else f" under QOS {qos}, which counts each minute {factor:g} times"


def unit(cap: Cap) -> str:
    """What a limit counts, in a word."""
    family, _, kind = cap.resource.partition(":")
    plain = {"gres/gpu": "GPU", "cpu": "CPU", "mem": "MB of memory", "node": "node"}
    return f"{kind} {plain.get(family, family)}".strip() if kind else plain.get(family, family)


def span(minutes: float) -> str:
    """A time as a sweep file takes it: `2h`, `1h 30m`, `2d`."""
    days, rest = divmod(int(minutes), 24 * 60)
    hours, left = divmod(rest, 60)
    parts = [f"{n}{letter}" for n, letter in ((days, "d"), (hours, "h"), (left, "m")) if n]
    return " ".join(parts) or "0m"


def _number(amount: float) -> str:
    return f"{amount:,.10g}"


def fit(plan: Plan, resources: Resources, limits: Limits, *, max_running: int | None) -> Plan:
    """The plan with its arrays split and throttled as they must be, and notes on what waits.

    Raises ConfigError where a worker could never start.
    """
    refuse(resources, limits)
    ask = demand(resources, limits)
    offer = ask.partitions[0] if ask.partitions else None
    holding = () if ask.exclude_checks else caps(limits, ask, offer)
    tasks = sum(array.tasks for array in plan.arrays)
    fed = tuple(c for c in holding if c.measure is Measure.SUBMITTED and c.value < tasks)
    most = limits.tasks_per_array or tasks
    lanes = tasks
    if fed:
        most, lanes = pieces_fed(fed, most)
    throttled = [_throttled(array, max_running) for array in plan.arrays]
    arrays = split(throttled, most, lanes)
    waits = () if ask.exclude_checks else _waits(arrays, ask, holding, limits)
    return replace(plan, arrays=arrays, fed=fed, notes=(*plan.notes, *waits))


def pieces_fed(fed: Sequence[Cap], most: int) -> tuple[int, int]:
    """How many tasks a piece of a submission has that is fed in, and how many pieces fit."""
    room = min(cap.value for cap in fed)
    most = min(most, max(1, room // _FED))
    return most, max(1, room // most)


def submit_caps(resources: Resources, limits: Limits) -> tuple[Cap, ...]:
    """What bounds how many such workers may be submitted."""
    ask = demand(resources, limits)
    offer = ask.partitions[0] if ask.partitions else None
    holding = () if ask.exclude_checks else caps(limits, ask, offer)
    return tuple(cap for cap in holding if cap.measure is Measure.SUBMITTED)


def _throttled(array: JobArray, max_running: int | None) -> JobArray:
    if max_running is None or min(array.tasks, array.at_once or array.tasks) <= max_running:
        return array
    return replace(array, at_once=max_running)


def split(arrays: Sequence[JobArray], most: int, lanes: int) -> tuple[JobArray, ...]:
    """Arrays of at most `most` tasks instead; the throttle of each holds over its pieces.

    Slurm throttles an array by itself. So a throttled one becomes chains of pieces, at most `lanes`
    of them side by side, and each chain gets its share of the throttle for good.
    """
    ends: dict[str, tuple[str, ...]] = {}
    found: list[JobArray] = []
    for array in arrays:
        after = tuple(end for name in array.after for end in ends.get(name, (name,)))
        chains = [[replace(array, after=after)]]
        if array.tasks > most:
            chains = _chains(replace(array, after=after), most, lanes)
        ends[array.name] = tuple(chain[-1].name for chain in chains)
        turns = itertools.zip_longest(*chains)
        found += [piece for turn in turns for piece in turn if piece is not None]
    return tuple(found)


def _chains(array: JobArray, most: int, lanes: int) -> list[list[JobArray]]:
    """An array as chains of pieces; without a throttle nothing waits for anything."""
    pieces = math.ceil(array.tasks / most)
    side_by_side = min(pieces, lanes, array.at_once) if array.at_once else pieces
    shares = _parts(array.at_once, side_by_side) if array.at_once else [1] * side_by_side
    tasks = _proportional(array.tasks, shares)
    numbers = itertools.count(1)
    chains = []
    for share, of_chain in zip(shares, tasks, strict=True):
        chain: list[JobArray] = []
        for size in _parts(of_chain, math.ceil(of_chain / most)):
            name = f"{array.name}.{next(numbers)}"
            after = (chain[-1].name,) if chain else array.after
            at_once = share if array.at_once and share < size else None
            chain.append(replace(array, name=name, tasks=size, at_once=at_once, after=after))
        chains.append(chain)
    return chains


def _parts(whole: int, count: int) -> list[int]:
    """A whole in nearly equal parts, the larger ones first."""
    each, rest = divmod(whole, count)
    return [each + (k < rest) for k in range(count)]


def _proportional(whole: int, shares: Sequence[int]) -> list[int]:
    """A whole in parts as large as their shares, to the unit."""
    bounds = [round(whole * done / sum(shares)) for done in itertools.accumulate(shares)]
    return [high - low for low, high in itertools.pairwise([0, *bounds])]


def _waits(
    arrays: Sequence[JobArray], ask: Demand, holding: Sequence[Cap], limits: Limits
) -> Iterator[str]:
    """What can start, but not all at once; counts this sweep alone."""
    workers = widest(arrays)
    offer = ask.partitions[0] if ask.partitions else None
    has = needs(ask, partition_named(limits, offer) if offer else None, limits)
    shared = [cap for cap in holding if cap.shared and cap.measure is not Measure.SUBMITTED]
    factor = usage_factor(limits, quality(limits, ask, offer))
    costs = [(cap, cap.cost(has, ask.minutes, factor)) for cap in shared]
    for cap, cost in sorted(costs, key=lambda pair: pair[0].value / (pair[1] or 1e-9)):
        if not cost or cap.value >= workers * cost:
            continue
        some = int(cap.value // cost)
        can = f"{some:,} run at once" if some else "none can start now"
        text = f"of {many(workers, 'worker')} {can}: {allowance(cap)}"
        if cap.in_minutes:
            text += f", one asks for {_number(cost)}"
            held = max(1, min(workers, places(ask, limits)))
            if shorter := int(cap.value / (held * has[cap.resource] * factor)):
                text += f"; with time: {span(shorter)} {_all(workers, held)} run at once"
        yield text
        return  # the tightest says enough


def _all(workers: int, held: float) -> str:
    return "all" if held == workers else f"all {held:,} that the nodes hold"


def at_once(plan: Plan) -> int:
    """How many tasks of a plan may run at the same time."""
    return min(widest(plan.arrays), *(cap.value for cap in plan.fed), plan.trials)


def widest(arrays: Sequence[JobArray]) -> int:
    """How many tasks of these arrays may run at the same time: their widest wave."""
    waves: dict[str, int] = {}
    width: dict[int, int] = {}
    for array in arrays:
        wave = 1 + max((waves[name] for name in array.after), default=0)
        waves[array.name] = wave
        width[wave] = width.get(wave, 0) + min(array.tasks, array.at_once or array.tasks)
    return max(width.values())
