"""The results for people: tables and lines. Loads rich only where something is shown."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from hpoctl.distributions import word
from hpoctl.plan import Cost, JobArray, Plan
from hpoctl.record import TaskState, TrialRecord, TrialState
from hpoctl.space import SearchSpace
from hpoctl.status import Status, WorkerStatus
from hpoctl.words import Mode, many

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hpoctl.control import Repaired

_WIDTH_OF_A_FILE = 10_000
_BAR = 40  # characters


def space_table(space: SearchSpace) -> Table:
    """One line a parameter."""
    rows = [
        {
            "parameter": name,
            "takes": str(distribution),
            "prior": word(space.priors[name]) if name in space.priors else "",
            "there, where": " and ".join(str(condition) for condition in space.when.get(name, ())),
            "divides": space.divides.get(name, ""),
        }
        for name, distribution in space.parameters.items()
    ]
    heads = [head for head in rows[0] if any(row[head] for row in rows)]
    table = _table(*heads)
    for row in rows:
        table.add_row(*(row[head] for head in heads))
    return table


def plans_table(plans: Mapping[Mode, Plan | str]) -> Table:
    """The modes side by side."""
    table = _table("mode", "arrays", "tasks", "makespan", "GPU-hours", "startup", "note")
    for mode, plan in plans.items():
        if isinstance(plan, str):
            table.add_row(mode, *("-" * 5), plan)
            continue
        tasks = sum(array.tasks for array in plan.arrays)
        expected = _expected(plan.cost) if plan.cost else "???"
        table.add_row(mode, str(len(plan.arrays)), str(tasks), *expected, "; ".join(plan.notes))
    return table


def _expected(cost: Cost) -> tuple[str, str, str]:
    gpu_hours = f"{cost.gpu_hours:.1f}" if cost.gpu_hours else "-"
    return duration(cost.makespan), gpu_hours, f"{cost.startup_share:.0%}"


def trials_table(
    records: Sequence[TrialRecord], metrics: Sequence[str], shown: Sequence[str]
) -> Table:
    """One line a trial; `shown` names what it recorded beside the metrics, and is to be seen."""
    names = list(dict.fromkeys(name for record in records for name in record.params))
    repeats = ["repeats"] if any(record.root != record.number for record in records) else []
    parents = ["parent"] if any("parent" in record.attrs for record in records) else []
    limited = ["violates"] if any(record.constraints for record in records) else []
    heads = ("state", *metrics, *shown, *limited, "time", *_heads(names), "error")
    table = _table("trial", *repeats, *parents, *heads)
    for record in records:
        values = record.values or (None,) * len(metrics)
        took = record.duration_s
        table.add_row(
            str(record.number),
            *("" if record.root == record.number else str(record.root) for _ in repeats),
            *(str(record.attrs.get("parent", "")) for _ in parents),
            record.state,
            *("" if value is None else f"{value:.6g}" for value in values),
            *(_short(record.attrs.get(name, "")) for name in shown),
            *(violated(record) for _ in limited),
            "" if took is None else duration(timedelta(seconds=took)),
            *(_short(record.params.get(name, "")) for name in names),
            _last_line(record.attrs.get("error", "")),
        )
    return table


def violated(record: TrialRecord) -> str:
    """The constraints that a trial violates, each with by how much."""
    above = {name: by for name, by in record.constraints.items() if by > 0}
    return ", ".join(f"{name} +{by:.3g}" for name, by in above.items())


def status_text(status: Status) -> str:
    """A study at a glance, its workers below it; by hand, as rich is slow to load."""
    done = round(_BAR * status.finished / max(1, sum(status.summary.counts.values())))
    rows = [
        ("study", f"{status.run.study} (mode {status.run.mode}, on {status.run.backend})"),
        ("storage", status.storage),
        ("", f"[{'#' * done:.<{_BAR}}]"),
        ("trials", counts(status)),
        ("best", best_line(status)),
    ]
    hours = status.gpu_hours
    if hours.allocated:
        parts = f"{hours.training:.3g} training, {hours.startup:.3g} startup, {hours.idle:.3g} idle"
        disputed = f"; accounting has {hours.charged:.3g}" if hours.disputed else ""
        rows.append(("GPU-hours", f"{hours.allocated:.3g} allocated: {parts}{disputed}"))
    if status.spent is not None:
        pending = sum(worker.state is TaskState.PENDING for worker in status.workers)
        leave = f": {many(pending, 'pending task')} will leave at the start" if pending else ""
        rows.append(("budget", f"{status.spent}{leave}"))
    if status.stopped is not None:
        rows.append(("stopped", f"itself: {status.stopped.why}; see hpoctl failures"))
    rows += [("avoids", f"{node}: {why}") for node, why in status.summary.bad_nodes.items()]
    rows += [("to repair", line) for line in repair_lines(status)]
    if status.silence is not None:
        rows.append((str(status.run.backend), silence_line(status)))
    if status.unsubmitted and status.waiting:
        follow = "follow as others end" if status.live_workers else "are not submitted"
        rows.append(("tasks", f"{status.unsubmitted:,} {follow}"))
    if status.eta_s:
        rows.append(("left", f"about {duration(timedelta(seconds=status.eta_s))}"))
    workers = ["", workers_text(status.workers)] if status.workers else []
    return "\n".join([_aligned(rows), *workers])


def repair_lines(status: Status) -> list[str]:
    """What `status --repair` would put right."""
    lines = []
    if status.lost:
        some = "trials" if len(status.lost) > 1 else "trial"
        lines.append(f"{some} {_numbers(status.lost)} without a worker")
    if status.undelivered:
        lines.append(f"{status.undelivered} results that the study has not got yet")
    if lines:
        lines[-1] += f": 'hpoctl status {shlex.quote(status.run.study)} --repair'"
    return lines


def silence_line(status: Status) -> str:
    """That the batch system does not answer, and how old its last words are."""
    if status.age_s is None:
        return f"does not answer: {status.silence}"
    return f"does not answer, states are {duration(timedelta(seconds=status.age_s))} old"


def repaired_line(repaired: Repaired) -> str:
    """What `status --repair` did."""
    parts = []
    if repaired.delivered:
        parts.append(f"{len(repaired.delivered)} results delivered")
    if repaired.returned:
        some = "trials" if len(repaired.returned) > 1 else "trial"
        again = "wait" if len(repaired.returned) > 1 else "waits"
        parts.append(f"{some} {_numbers(repaired.returned)} {again} again")
    if repaired.unheard:
        parts.append(f"no word yet of the workers of trials {_numbers(repaired.unheard)}")
    return ", ".join(parts) or "nothing to repair"


def _numbers(trials: Sequence[int]) -> str:
    return ", ".join(map(str, trials))


def counts(status: Status) -> str:
    """How many trials are in which state."""
    by_state = status.summary.counts
    whole = sum(by_state.values())
    done = f"{status.finished} of {whole} done"
    rest = [f"{by_state[state]} {state}" for state in TrialState if by_state[state]]
    repeats = whole - status.run.trials
    infeasible = status.summary.infeasible
    rest += [f"{infeasible} of these infeasible"] if infeasible else []
    beyond = f", {repeats} of them beyond the budget of {status.run.trials}" if repeats > 0 else ""
    return f"{done} ({', '.join(rest)}){beyond}"


def best_line(status: Status) -> str:
    """The best trial so far."""
    best = status.summary.best
    if best is None or best.values is None:
        several = f"several metrics: 'hpoctl best {shlex.quote(status.run.study)}'"
        return "none yet" if len(status.gist.metrics) == 1 else several
    values = best.params.values()
    pairs = zip(_heads(list(best.params)), values, strict=True)
    params = ", ".join(f"{name} {_short(value)}" for name, value in pairs)
    recorded = [f"{n} {_short(best.attrs[n])}" for n in status.gist.shown if n in best.attrs]
    value = f"{status.gist.metrics[0]} {best.values[0]:.6g}"
    value += f" ({', '.join(recorded)})" if recorded else ""
    return f"{value} in trial {best.number}: {params}"


def workers_text(workers: Sequence[WorkerStatus]) -> str:
    """One line a worker."""
    rows = [
        (
            worker.task,
            worker.state,
            worker.node or "",
            "" if worker.trial is None else str(worker.trial),
            str(worker.trials),
            worker.reason or "",
        )
        for worker in workers
    ]
    return _aligned([("worker", "state", "node", "trial", "done", "reason"), *rows])


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join(lines)


def array_lines(plan: Plan) -> Iterator[str]:
    """A plan's arrays in words; those that were split, as what they were."""
    for name, group in itertools.groupby(plan.arrays, lambda array: array.name.partition(".")[0]):
        pieces = list(group)
        if len(pieces) == 1:
            yield array_line(pieces[0])
            continue
        tasks, most = sum(piece.tasks for piece in pieces), max(piece.tasks for piece in pieces)
        first = f"array '{name}': {tasks:,} tasks in {len(pieces)} arrays of at most {most:,}"
        running = sum(piece.at_once or 0 for piece in pieces if not piece.after)
        yield f"{first}, {running} at once" if running else first
    for cap in plan.fed:
        yield f"at most {cap.value:,} tasks are submitted at a time ({cap.holder}: {cap.name})"


def array_line(array: JobArray) -> str:
    """An array in words."""
    parts = [f"array '{array.name}': {many(array.tasks, 'task')}"]
    if array.at_once:
        parts.append(f"{array.at_once} at once")
    if array.trials_per_task:
        parts.append(f"{many(array.trials_per_task, 'trial')} each")
    if array.after:
        parts.append(f"after {' and '.join(array.after)}")
    return ", ".join(parts)


def cost_line(cost: Cost) -> str:
    """A plan's cost in words."""
    gpus = f", {cost.gpu_hours:.1f} GPU-hours" if cost.gpu_hours else ""
    return f"{duration(cost.makespan)}{gpus}, {cost.startup_share:.0%} of the work is startup"


def duration(time: timedelta) -> str:
    """A time span as people say it."""
    seconds = round(time.total_seconds())
    if seconds < 60:
        return f"{time.total_seconds():.1f} s" if seconds < 10 else f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def console(*, stderr: bool = False) -> Console:
    """Where tables go; in a pipe nothing is cut or coloured."""
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, highlight=False)
    if not made.is_terminal:
        made.width = _WIDTH_OF_A_FILE
    return made


def _heads(names: Sequence[str]) -> Sequence[str]:
    """Parameters' names without their groups, where that leaves them distinct."""
    leaves = [name.split(".")[-1] for name in names]
    return leaves if len(set(leaves)) == len(leaves) else names


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else ""


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
