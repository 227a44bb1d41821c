"""Slurm's reasons for pending tasks, in words, with the site's numbers and the cheapest change.

The reasons: https://slurm.schedmd.com/job_reason_codes.html
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from hpoctl.backends.slurm import jobs as queue
from hpoctl.backends.slurm import kept
from hpoctl.backends.slurm.elsewhere import Offer, other_limits, other_nodes
from hpoctl.backends.slurm.jobs import Job
from hpoctl.delay import Change, Delay
from hpoctl.fit import allowance, how_counted, places, span, unit
from hpoctl.limits import Cap, Limits, Measure, caps, usage_factor, walltime_caps
from hpoctl.words import many

_PAGE = "https://slurm.schedmd.com/job_reason_codes.html"
_LIMIT = re.compile(
    r"(?P<holder>Assoc|QOS|)(?P<kind>Grp|Max)(?P<what>Jobs|SubmitJobs?|Wall(?:Duration)?|[A-Z]\w*?)"
    r"(?P<minutes>RunMin(?:ute)?s|Minutes|)(?P<each>Per(?:User|Account|Acct|Job|Node)|)(?:Limit)?"
)
_OF_GRANT = 0.9  # what is left of one after those that run have gone: they use some up
_FAMILIES = {"cpu": "cpu", "mem": "mem", "memory": "mem", "node": "node", "gres": "gres/"}
_PLAIN = {
    "Priority": "other jobs come before these",
    "Resources": "the nodes that these need are busy",
    "Dependency": "these wait for an earlier array of the study to end, as planned",
    "BeginTime": "Slurm waits before it starts these, as it does after a requeue",
    "JobArrayTaskLimit": "as many tasks run at once as 'workers' or 'max_running' allow",
    "None": "Slurm has not looked at these yet",
    "Reservation": "these wait for a reservation to begin",
    "Licenses": "a license that these ask for is in use",
    "Cleaning": "Slurm cleans up after their last run",
    "Prolog": "their nodes are being prepared",
    "NodeDown": "a node that these need is down",
}
_HELD = {
    "JobHeldUser": "these are held, by you or by a job of yours",
    "JobHoldMaxRequeue": "these were requeued so often that Slurm holds them",
    "launch failed requeued held": "these could not be started on their node and are held",
    "job requeued in": "these were requeued and are held, by you or by a job of yours",
}
_BY_ADMIN = "JobHeldAdmin"
_NEVER = {
    "DependencyNeverSatisfied": "what these wait for can never come",
    "InvalidAccount": "their account is not valid",
    "InvalidQOS": "their QOS is not valid",
    "AccountNotAllowed": "the partition is not for their account",
    "QOSNotAllowed": "the partition or the account takes no jobs of their QOS",
    "BadConstraints": "no node has what these ask for",
    "PartitionNodeLimit": "these ask for more nodes than the partition allows",
    "ReservationDeleted": "the reservation that these wait for is gone",
    "ReservationInvalid": "the reservation that these name cannot be used",
}
_DOWN = ("ReqNodeNotAvail", "PartitionDown", "PartitionInactive", "Nodes required for job are DOWN")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """Alike tasks that wait for the same reason, and how many of the study run."""

    jobs: Sequence[Job]
    own_running: Sequence[Job]

    @property
    def one(self) -> Job:
        return self.jobs[0]

    @property
    def tasks(self) -> int:
        return len(self.jobs)


Used = Callable[[Cap], Sequence[Job]]


def read(ids: Sequence[str]) -> tuple[Delay, ...]:
    """Why tasks of these arrays wait, asked of Slurm now. Raises BatchSystemError."""
    jobs = queue.of_arrays(ids)
    if all(job.running for job in jobs):
        return ()
    limits, running = kept.read(time.time()), cache(queue.running)

    def used(cap: Cap) -> Sequence[Job]:
        return [job for job in running() if queue.counts(job, cap, limits.user)]

    return explain(jobs, limits, used)


def explain(jobs: Sequence[Job], limits: Limits, used: Used) -> tuple[Delay, ...]:
    """The delays of a study's tasks, the largest first; `used` gives what counts against a cap."""
    groups: dict[tuple[object, ...], list[Job]] = {}
    for job in _weighed(jobs, limits):
        if not job.running:
            place = (job.partition, job.account, job.qos)
            alike = (job.reason, *place, job.minutes, tuple(job.needs.items()))
            groups.setdefault(alike, []).append(job)
    running = _weighed([job for job in jobs if job.running], limits)

    def weighed(cap: Cap) -> Sequence[Job]:
        return _weighed(used(cap), limits)

    found = [
        _delay(_Waiting(jobs=group, own_running=running), limits, weighed)
        for group in groups.values()
    ]
    return tuple(sorted(found, key=lambda delay: -delay.tasks))


def _weighed(jobs: Sequence[Job], limits: Limits) -> list[Job]:
    late = limits.recount_minutes
    return [replace(job, factor=usage_factor(limits, job.qos), late=late) for job in jobs]


def _delay(waiting: _Waiting, limits: Limits, used: Used) -> Delay:
    one, reason = waiting.one, waiting.one.reason
    text, never, changes = _in_words(waiting, limits, used)
    return Delay(
        reason=reason,
        arrays=tuple(dict.fromkeys(job.array for job in waiting.jobs)),
        tasks=waiting.tasks,
        text=text,
        never=never,
        start=None if _is_held(reason) else one.start,
        changes=changes,
    )


_Words = tuple[str, bool, tuple[Change, ...]]


def _in_words(waiting: _Waiting, limits: Limits, used: Used) -> _Words:
    reason = waiting.one.reason
    if reason.startswith("PartitionTimeLimit") or "WallDuration" in reason:
        text, never, changes = _too_long(waiting, limits)
        return text, never, (*changes, *_by_other_limits(waiting, limits, used))
    if (cap := _cap_of(waiting, limits, used)) is not None:
        text, never, changes = _held_by(cap, waiting, used(cap) if cap.shared else (), limits)
        return text, never, (*changes, *_by_other_limits(waiting, limits, used))
    if reason in _PLAIN:
        return _busy(waiting, limits)
    if reason == _BY_ADMIN:
        return "an administrator holds these, and only one can let them go: ask why", False, ()
    for known, text in _HELD.items():
        if reason.startswith(known):
            release = f"'scontrol release {' '.join(dict.fromkeys(_ids(waiting)))}' lets them go"
            return text, False, (Change(effect=release),)
    if reason in _NEVER:
        again = Change(effect="this attaches others in their place", flags=_instead(waiting))
        return _NEVER[reason], True, (again,)
    if any(word in reason for word in _DOWN):
        return _down(waiting, limits)
    if (match := _LIMIT.fullmatch(reason)) and match["minutes"] == "Minutes":
        granted = "what their account or QOS was granted is used up, or would be by these"
        return f"{granted}: a shorter --time may do, or ask for more", False, ()
    return f"Slurm says '{reason}': see {_PAGE}", False, ()


def _is_held(reason: str) -> bool:
    """Whether it has no start to expect; squeue shows the one before."""
    return reason.startswith((_BY_ADMIN, *_HELD))


def _ids(waiting: _Waiting) -> Iterator[str]:
    return (job.array for job in waiting.jobs)


def _instead(waiting: _Waiting, *flags: str, tasks: int | None = None) -> tuple[str, ...]:
    return ("-n", str(tasks or waiting.tasks), *flags, "--instead")


def _cap_of(waiting: _Waiting, limits: Limits, used: Used) -> Cap | None:
    """The limit that a reason speaks of: of several the one with the least room for these."""
    match = _LIMIT.fullmatch(waiting.one.reason)
    if match is None:
        return None
    measure, family = _measure(match), _FAMILIES.get(match["what"].lower(), match["what"].lower())
    job = waiting.one
    fitting = [
        cap
        for cap in caps(limits, job.demand, job.demand.partitions[0])
        if cap.measure is measure
        and (not cap.resource or cap.resource.startswith(family))
        and (cap.qos is not None) == (match["holder"] != "Assoc")
        and job.cost(cap) > 0
    ]
    return min(fitting, key=lambda cap: _room(cap, used) / job.cost(cap), default=None)


def _measure(match: re.Match[str]) -> Measure | None:
    if match["what"].startswith(("Jobs", "Submit")):
        return Measure.JOBS if match["what"] == "Jobs" else Measure.SUBMITTED
    if match["minutes"]:
        once = Measure.MINUTES_EACH if match["each"] else Measure.GRANT
        return Measure.MINUTES if match["minutes"].startswith("Run") else once
    return Measure.EACH if match["each"] in ("PerJob", "PerNode") else Measure.RESOURCES


def _taken(cap: Cap, jobs: Sequence[Job]) -> float:
    return sum(job.holds(cap) for job in jobs)


def _room(cap: Cap, used: Used) -> float:
    return cap.value - _taken(cap, used(cap)) if cap.shared else cap.value


def _too_long(waiting: _Waiting, limits: Limits) -> _Words:
    job = waiting.one
    found = walltime_caps(limits, job.demand, job.demand.partitions[0])
    if not found:
        return f"a walltime of {span(job.minutes)} is more than is allowed there", True, ()
    least = min(found, key=lambda cap: cap.value)
    text = f"these ask for {span(job.minutes)}; {allowance(least)}: so they never start"
    allowed = span(least.value).replace(" ", "")
    change = Change(effect="these may start", flags=_instead(waiting, "--time", allowed))
    return text, True, (change,)


def _held_by(cap: Cap, waiting: _Waiting, counted: Sequence[Job], limits: Limits) -> _Words:
    """What a limit leaves, and what fits into it."""
    job, own = waiting.one, set(_own_arrays(waiting))
    cost, taken = job.cost(cap), _taken(cap, counted)
    if cost > cap.value:
        alone = f"one of these alone asks for {_amount(cost, cap)}"
        never = cost > cap.most
        end = "they never start" if never else "they wait until there is more"
        return f"{alone}; {allowance(cap)}: {end}", never, tuple(_smaller(cap, waiting, cap.value))
    ours = _taken(cap, [other for other in counted if other.array in own])
    verb = "asks" if waiting.tasks == 1 else "ask"
    asks = f"{_workers(waiting, cap)} {verb} for {_amount(cost * waiting.tasks, cap)}"
    text = f"{asks}; {allowance(cap)}, and {taken:,.10g} {'is' if taken == 1 else 'are'} taken"
    if ours:
        text += f" ({f'{ours:,.10g}' if taken > ours else 'all'} by this study)"
    free = cap.value - taken
    if cap.in_minutes:
        held, spare = places(job.demand, limits), _OF_GRANT if cap.granted else 1
        return text, False, tuple(_shorter(cap, waiting, free, spare * (free + ours), held))
    changes = [*_smaller(cap, waiting, free / waiting.tasks), *_freed(cap, job, counted, free)]
    return text, False, tuple(changes)


def _own_arrays(waiting: _Waiting) -> Iterator[str]:
    return (job.array for job in (*waiting.jobs, *waiting.own_running))


def _workers(waiting: _Waiting, cap: Cap) -> str:
    job = waiting.one
    gpus = int(job.needs.get("gres/gpu", 0))
    size = f"{gpus} GPU" if gpus else f"{int(job.needs.get('cpu', 1))} CPU"
    price = how_counted(job.qos, job.factor) if cap.in_minutes else ""
    return f"{many(waiting.tasks, 'worker')} x {span(job.minutes)} x {size}{price}"


def _amount(amount: float, cap: Cap) -> str:
    if cap.measure in (Measure.JOBS, Measure.SUBMITTED):
        return f"{amount:,.10g} places"
    word = f"{unit(cap)}-minutes" if cap.in_minutes else unit(cap)
    return f"{amount:,.10g} {word}"


def _shorter(
    cap: Cap, waiting: _Waiting, free: float, without_ours: float, held: float
) -> Iterator[Change]:
    """What lets all start, or as many as the nodes hold: beside what runs now, or in its place."""
    job, running = waiting.one, len(waiting.own_running)
    each, together = job.needs[cap.resource] * job.factor, waiting.tasks + running
    now = math.floor(free / (waiting.tasks * each))
    if now >= 1 and waiting.tasks + running <= held:
        time = span(now).replace(" ", "")
        effect = f"with --time {time} all {waiting.tasks} start now"
        yield Change(effect=effect, flags=_instead(waiting, "--time", time))
    left = "when those of the study that run have left"
    if running and waiting.tasks * each * job.minutes <= without_ours:
        yield Change(effect=f"all {waiting.tasks} start {left}", drain=True)
        return
    count = int(max(1, min(together, held)))
    then = math.floor(without_ours / (count * each))
    if running and then > now:
        time = span(then).replace(" ", "")
        all_ = f"all {count}" if count == together else f"all {count} that the nodes hold"
        effect = f"with --time {time} {all_} run at once, {left}"
        yield Change(
            effect=effect, flags=_instead(waiting, "--time", time, tasks=count), drain=True
        )


def _smaller(cap: Cap, waiting: _Waiting, each: float) -> Iterator[Change]:
    """Resources with which all start, of a kind that a worker can do with less of."""
    key = {"gres/gpu": "--gpus", "cpu": "--cpus", "mem": "--mem"}.get(cap.resource.split(":")[0])
    if cap.in_minutes:
        time = span(each // (waiting.one.needs[cap.resource] * waiting.one.factor)).replace(" ", "")
        if time != "0m":
            yield Change(
                effect=f"with --time {time} they can start",
                flags=_instead(waiting, "--time", time),
            )
    elif key and 1 <= each < waiting.one.needs.get(cap.resource, 0):
        size = f"{int(each)}M" if key == "--mem" else str(int(each))
        effect = f"with {key} {size} all {waiting.tasks} start as soon as nodes are free"
        yield Change(effect=effect, flags=_instead(waiting, key, size))


def _freed(cap: Cap, job: Job, counted: Sequence[Job], free: float) -> Iterator[Change]:
    """When walltimes that end will have left room for one, if nothing ends before."""
    cost = job.cost(cap)
    ending = [other for other in counted if other.minutes]  # without 0, which is no walltime
    for other in sorted(ending, key=lambda other: other.minutes_left):
        free += other.holds(cap)
        if free >= cost:
            wait = span(max(1, other.minutes_left))
            yield Change(effect=f"room for one is free in {wait} at the latest, by the walltimes")
            return


def _busy(waiting: _Waiting, limits: Limits) -> _Words:
    job, text = waiting.one, _PLAIN[waiting.one.reason]
    if job.reason not in ("Priority", "Resources"):
        return text, False, ()
    here = [node for node in limits.nodes if node.partition in job.demand.partitions]
    states: dict[str, int] = {}
    for node in here:
        states[node.state] = states.get(node.state, 0) + node.count
    if states:
        text += f" (nodes of partition {job.partition}: "
        text += ", ".join(f"{count} {state}" for state, count in states.items()) + ")"
    return text, False, _on_other_nodes(waiting, limits)


def _on_other_nodes(waiting: _Waiting, limits: Limits) -> tuple[Change, ...]:
    """Another partition with a free node that is large enough, or a shorter walltime."""
    if offers := other_nodes(waiting.one, limits):
        return _chosen(offers, waiting)
    if waiting.one.minutes > 1:
        effect = "a shorter --time lets Slurm use gaps between other jobs (backfill)"
        return (Change(effect=effect),)
    return ()


def _by_other_limits(waiting: _Waiting, limits: Limits, used: Used) -> tuple[Change, ...]:
    """Another QOS, partition or account that has room for all of them."""
    offers = other_limits(waiting.one, waiting.tasks, limits, lambda cap: _room(cap, used))
    return _chosen(offers, waiting)


def _chosen(offers: Sequence[Offer], waiting: _Waiting) -> tuple[Change, ...]:
    return tuple(Change(effect=text, flags=_instead(waiting, *flags)) for text, flags in offers)


def _down(waiting: _Waiting, limits: Limits) -> _Words:
    job = waiting.one
    named = re.search(r"UnavailableNodes:\s*([^\s)]+)", job.reason)
    nodes = f" ({named[1]})" if named else ""
    text = f"nodes of partition {job.partition} are down, drained or reserved{nodes}"
    return text, False, _on_other_nodes(waiting, limits)
