"""What the user reads: tables for people, JSON for programs, bare ids for scripts.

Results go to stdout, everything else to stderr. The only module that prints.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl import config
from hpoctl.control import Planned, Submitted
from hpoctl.plan import Cost, JobArray, Plan
from hpoctl.record import TrialRecord, TrialState
from hpoctl.space import nest
from hpoctl.status import Status, WorkerStatus
from hpoctl.sweep import Metric, Mode

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from hpoctl.report import Report


_WIDTH_OF_A_FILE = 10_000  # in a pipe nothing is cut


class Format(StrEnum):
    """How a result is shown."""

    TABLE = "table"
    JSON = "json"
    QUIET = "quiet"


def say(text: str) -> None:
    """A line that is not a result: hints, next commands."""
    print(text, file=sys.stderr)


def suggest(command: str) -> None:
    """The next sensible command, as it can be typed in this shell."""
    program = "hpoctl" if shutil.which("hpoctl") else _relative(Path(sys.argv[0]).absolute())
    say(f"next: {program} {command}")


def complain(text: str) -> None:
    """An error, as one line for each thing that is wrong."""
    print(f"hpoctl: {text}", file=sys.stderr)


def show_json(value: object) -> None:
    """A result for programs."""
    print(json.dumps(value, indent=2, default=str))


def show_planned(planned: Planned, form: Format) -> None:
    """`check`: the space, the number of trials, what would run."""
    if form is Format.JSON:
        show_json({"study": planned.sweep.study, "valid": True, **_plan(planned.plan)})
        return
    sweep = planned.sweep
    if form is Format.QUIET:
        return
    table = _table("parameter", "takes")
    for name, distribution in sweep.search_space.parameters.items():
        table.add_row(name, str(distribution))
    _console().print(table)
    print(
        f"{planned.plan.trials} trials, sampler {sweep.sampler.name},"
        f" pruner {sweep.pruner.name}, on {sweep.backend}, mode {planned.plan.mode}:"
    )
    for array in planned.plan.arrays:
        print(f"  {_array(array)}")
    for note in planned.plan.notes:
        say(f"note: {note}")
    if planned.plan.cost is not None:
        print(f"expected: {_cost(planned.plan.cost)}")


def show_plans(plans: Mapping[Mode, Plan | str], form: Format) -> None:
    """`plan`: the modes side by side."""
    if form is Format.JSON:
        show_json(
            {
                mode: {"refused": plan} if isinstance(plan, str) else _plan(plan)
                for mode, plan in plans.items()
            }
        )
        return
    table = _table("mode", "arrays", "tasks", "makespan", "GPU-hours", "startup", "note")
    for mode, plan in plans.items():
        if isinstance(plan, str):
            table.add_row(mode, "-", "-", "-", "-", "-", plan)
            continue
        cost = plan.cost
        table.add_row(
            mode,
            str(len(plan.arrays)),
            str(sum(array.tasks for array in plan.arrays)),
            _duration(cost.makespan) if cost else "?",
            f"{cost.gpu_hours:.1f}" if cost and cost.gpu_hours else "-" if cost else "?",
            f"{cost.startup_share:.0%}" if cost else "?",
            "; ".join(plan.notes),
        )
    _console().print(table)
    if any(isinstance(plan, Plan) and plan.cost is None for plan in plans.values()):
        say("'estimate: {trial: 10m, startup: 2m}' in the sweep file fills in the question marks")


def show_scripts(planned: Planned) -> None:
    """`submit --dry-run`: exactly what would be submitted."""
    for array in planned.plan.arrays:
        after = f", after {array.after} has ended" if array.after else ""
        say(f"--- {planned.run_dir.script(array.name)}{after}")
        print(planned.scripts[array.name], end="")


def show_submitted(submitted: Submitted, form: Format, verb: str) -> None:
    """`submit`, `workers add`, `cancel`: the arrays and the next command."""
    if form is Format.JSON:
        show_json(
            {
                "study": submitted.study,
                "run_dir": str(submitted.run_dir),
                "waiting": submitted.waiting,
                "arrays": [
                    {"name": s.array, "id": s.id, "tasks": s.tasks, "backend": s.backend}
                    for s in submitted.submissions
                ],
            }
        )
        return
    for submission in submitted.submissions:
        if form is Format.QUIET:
            print(submission.id)
        else:
            print(f"{verb} {submission.array}: {submission.id} ({submission.tasks} tasks)")
    if not submitted.submissions:
        say(f"nothing to do: no trial of '{submitted.study}' waits")
    suggest(f"status {shell_word(submitted.study)}")


def show_status(status: Status, form: Format) -> None:
    """`status`: counts, best, workers; the next command."""
    if form is Format.JSON:
        show_json(status_as_json(status))
    elif form is Format.QUIET:
        print(f"{status.finished}/{sum(status.summary.counts.values())}")
    else:
        _console().print(_status(status))
        suggest(_next(status))


@contextmanager
def live_status() -> Iterator[Callable[[Status], None]]:
    """A display that each call brings up to date; plain lines where there is no terminal."""
    from rich.live import Live

    console = _console(stderr=True)
    if not console.is_terminal:
        yield _ProgressLines()
        return
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda status: live.update(_status(status))


class _ProgressLines:
    """A line a change, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, status: Status) -> None:
        line = f"{_counts(status)}; best {_best_line(status)}"
        if line != self._last:
            say(line)
            self._last = line


def show_workers(status: Status, form: Format) -> None:
    """`workers list`."""
    if form is Format.JSON:
        show_json([_worker(worker) for worker in status.workers])
    elif form is Format.QUIET:
        print("\n".join(worker.task for worker in status.workers))
    else:
        _console().print(_workers(status.workers))


def show_trials(records: Sequence[TrialRecord], metrics: Sequence[Metric], form: Format) -> None:
    """`trials`: one line a trial."""
    if form is Format.JSON:
        show_json([_trial(record) for record in records])
        return
    if form is Format.QUIET:
        print("\n".join(str(record.number) for record in records))
        return
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
            "" if took is None else _duration(timedelta(seconds=took)),
            *(_short(record.params.get(name, "")) for name in names),
            _last_line(record.attrs.get("error", "")),
        )
    _console().print(table)


def show_best(best: TrialRecord, style: str) -> None:
    """`best`: the winning parameters as YAML, JSON or flags."""
    if style == "json":
        show_json(nest(best.params))
    elif style == "flags":
        print(" ".join(f"--{name.split('.')[-1]}={_short(v)}" for name, v in best.params.items()))
    else:
        print(config.dump(nest(best.params)), end="")


def show_report(report: Report, form: Format) -> None:
    """`report`: where the files are."""
    paths = {
        "best_config": report.best_config,
        "trials_summary": report.trials_summary,
        "optimization_plot": report.optimization_plot,
        "trial_results": report.trial_results,
    }
    if form is Format.JSON:
        show_json(paths)
        return
    for path in paths.values():
        if path is not None:
            print(_relative(path))


def show_text(text: str) -> None:
    """Text as it stands, such as a log."""
    print(text, end="", flush=True)


def show_paths(paths: Sequence[Path], form: Format) -> None:
    """`init`: the files that were written."""
    if form is Format.JSON:
        show_json([str(path) for path in paths])
    else:
        print("\n".join(str(path) for path in paths))


def status_as_json(status: Status) -> dict[str, object]:
    """The shape that programs rely on; see docs/reference/cli.md."""
    best = status.summary.best
    hours = status.gpu_hours
    return {
        "study": status.run.study,
        "run_dir": str(status.run_dir),
        "mode": status.run.mode,
        "backend": status.run.backend,
        "storage": status.storage,
        "counts": {state.value: count for state, count in status.summary.counts.items()},
        "budget": {"trials": status.run.trials, "gpu_hours": status.sweep.budget.gpu_hours},
        "gpu_hours": {
            "allocated": hours.allocated,
            "training": hours.training,
            "startup": hours.startup,
        },
        "best": best
        and {"number": best.number, "values": best.values, "params": dict(best.params)},
        "workers": [_worker(worker) for worker in status.workers],
        "eta_s": status.eta_s,
    }


def _worker(worker: WorkerStatus) -> dict[str, object]:
    return {
        "task": worker.task,
        "slurm_state": worker.state,
        "node": worker.node,
        "trial": worker.trial,
        "trials": worker.trials,
        "reason": worker.reason,
    }


def _trial(record: TrialRecord) -> dict[str, object]:
    return {
        "number": record.number,
        "state": record.state,
        "values": record.values,
        "params": dict(record.params),
        "duration_s": record.duration_s,
        "attrs": dict(record.attrs),
    }


def _plan(plan: Plan) -> dict[str, object]:
    cost = plan.cost
    return {
        "mode": plan.mode,
        "trials": plan.trials,
        "arrays": [
            {
                "name": array.name,
                "tasks": array.tasks,
                "at_once": array.at_once,
                "trials_per_task": array.trials_per_task,
                "after": array.after,
            }
            for array in plan.arrays
        ],
        "makespan_s": cost and cost.makespan.total_seconds(),
        "gpu_hours": cost and cost.gpu_hours,
        "startup_share": cost and cost.startup_share,
        "notes": plan.notes,
    }


def _status(status: Status) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    table = Table.grid("", "", padding=(0, 2))
    table.add_row("study", f"{status.run.study} (mode {status.run.mode}, on {status.run.backend})")
    table.add_row("storage", status.storage)
    total = sum(status.summary.counts.values())
    table.add_row("", ProgressBar(total=total, completed=status.finished, width=40))
    table.add_row("trials", _counts(status))
    table.add_row("best", _best_line(status))
    hours = status.gpu_hours
    if hours.allocated:
        parts = f"{hours.training:.2f} training, {hours.startup:.2f} startup"
        table.add_row("GPU-hours", f"{hours.allocated:.2f} allocated, {parts}")
    if status.eta_s:
        table.add_row("left", f"about {_duration(timedelta(seconds=status.eta_s))}")
    return Group(table, *([_workers(status.workers)] if status.workers else []))


def _counts(status: Status) -> str:
    counts = status.summary.counts
    done = f"{status.finished} of {sum(counts.values())} done"
    rest = [f"{counts[state]} {state}" for state in TrialState if counts[state]]
    return f"{done} ({', '.join(rest)})"


def _best_line(status: Status) -> str:
    best = status.summary.best
    if best is None or best.values is None:
        return "none yet" if len(status.sweep.metrics) == 1 else "several metrics: see the report"
    values = best.params.values()
    pairs = zip(_heads(list(best.params)), values, strict=True)
    params = ", ".join(f"{name} {_short(value)}" for name, value in pairs)
    return f"{status.sweep.metrics[0].name} {best.values[0]:.6g} in trial {best.number}: {params}"


def _workers(workers: Sequence[WorkerStatus]) -> Table:
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


def _next(status: Status) -> str:
    study = shell_word(status.run.study)
    running = status.summary.counts[TrialState.RUNNING]
    if (status.waiting or running) and not status.live_workers:
        workers = min(status.waiting + running, 4)
        return f"workers add {study} -n {workers}   (trials are left, but no worker)"
    if status.waiting or running:
        return f"status {study} --watch"
    return f"report {study}"


def _heads(names: Sequence[str]) -> Sequence[str]:
    """Parameters' names without their groups, where that leaves them distinct."""
    leaves = [name.split(".")[-1] for name in names]
    return leaves if len(set(leaves)) == len(leaves) else names


def _array(array: JobArray) -> str:
    parts = [f"array '{array.name}': {array.tasks} tasks"]
    if array.at_once:
        parts.append(f"{array.at_once} at once")
    if array.trials_per_task:
        parts.append(f"{array.trials_per_task} trials each")
    if array.after:
        parts.append(f"after {array.after}")
    return ", ".join(parts)


def _cost(cost: Cost) -> str:
    gpus = f", {cost.gpu_hours:.1f} GPU-hours" if cost.gpu_hours else ""
    return f"{_duration(cost.makespan)}{gpus}, {cost.startup_share:.0%} of the work is startup"


def _duration(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    if seconds < 60:
        return f"{time.total_seconds():.1f} s" if seconds < 10 else f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _last_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else ""


def _relative(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def shell_word(study: str) -> str:
    """A study's name as one word of a shell."""
    return shlex.quote(study)


def _table(*columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(*columns, box=SIMPLE_HEAD, pad_edge=False)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, markup=False, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_A_FILE
    return console
