"""The results for people: tables and lines. Loads rich only where something is shown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from hpoctl.plan import Cost, JobArray, Plan
from hpoctl.record import TrialRecord, TrialState
from hpoctl.space import SearchSpace
from hpoctl.status import Status, WorkerStatus
from hpoctl.sweep import Metric, Mode

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_WIDTH_OF_A_FILE = 10_000


def space_table(space: SearchSpace) -> Table:
    """One line a parameter."""
    table = _table("parameter", "takes")
    for name, distribution in space.parameters.items():
        table.add_row(name, str(distribution))
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


def trials_table(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> Table:
    """One line a trial."""
    names = list(dict.fromkeys(name for record in records for name in record.params))
    columns = (*(metric.name for metric in metrics), "time", *_heads(names), "error")
    table = _table("trial", "state", *columns)
    for record in records:
        values = record.values or (None,) * len(metrics)
        took = record.duration_s
        table.add_row(
            str(record.number),
            record.state,
            *("" if value is None else f"{value:.6g}" for value in values),
            "" if took is None else duration(timedelta(seconds=took)),
            *(_short(record.params.get(name, "")) for name in names),
            _last_line(record.attrs.get("error", "")),
        )
    return table


def status_view(status: Status) -> RenderableType:
    """A study at a glance, its workers below it."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid("", "", padding=(0, 2))
    table.add_row("study", f"{status.run.study} (mode {status.run.mode}, on {status.run.backend})")
    table.add_row("storage", status.storage)
    total = sum(status.summary.counts.values())
    table.add_row("", ProgressBar(total=total, completed=status.finished, width=40))
    table.add_row("trials", counts(status))
    table.add_row("best", best_line(status))
    hours = status.gpu_hours
    if hours.allocated:
        parts = f"{hours.training:.3g} training, {hours.startup:.3g} startup"
        table.add_row("GPU-hours", f"{hours.allocated:.3g} allocated, {parts}")
    if status.lost:
        attach = f"hpoctl workers add {shlex.quote(status.run.study)} -n {status.lost}"
        table.add_row("lost", f"{status.lost} trials have no worker: '{attach}' queues them again")
    if status.eta_s:
        table.add_row("left", f"about {duration(timedelta(seconds=status.eta_s))}")
    return Group(table, *([workers_table(status.workers)] if status.workers else []))


def counts(status: Status) -> str:
    """How many trials are in which state."""
    by_state = status.summary.counts
    done = f"{status.finished} of {sum(by_state.values())} done"
    rest = [f"{by_state[state]} {state}" for state in TrialState if by_state[state]]
    return f"{done} ({', '.join(rest)})"


def best_line(status: Status) -> str:
    """The best trial so far."""
    best = status.summary.best
    if best is None or best.values is None:
        return "none yet" if len(status.sweep.metrics) == 1 else "several metrics: see the report"
    values = best.params.values()
    pairs = zip(_heads(list(best.params)), values, strict=True)
    params = ", ".join(f"{name} {_short(value)}" for name, value in pairs)
    return f"{status.sweep.metrics[0].name} {best.values[0]:.6g} in trial {best.number}: {params}"


def workers_table(workers: Sequence[WorkerStatus]) -> Table:
    """One line a worker."""
    table = _table("worker", "state", "node", "trial", "done", "reason")
    for worker in workers:
        table.add_row(
            worker.task,
            worker.state,
            worker.node or "",
            "" if worker.trial is None else str(worker.trial),
            str(worker.trials),
            worker.reason or "",
        )
    return table


def array_line(array: JobArray) -> str:
    """An array in words."""
    parts = [f"array '{array.name}': {array.tasks} tasks"]
    if array.at_once:
        parts.append(f"{array.at_once} at once")
    if array.trials_per_task:
        parts.append(f"{array.trials_per_task} trials each")
    if array.after:
        parts.append(f"after {array.after}")
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
