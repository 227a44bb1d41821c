"""What the user reads: tables for people, JSON for programs, bare ids for scripts.

Results go to stdout, everything else to stderr. Only this folder prints.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.output import shapes, tables
from hpoctl.plan import Plan
from hpoctl.record import TrialRecord, TrialState
from hpoctl.status import Status
from hpoctl.words import Gist, Mode, many

if TYPE_CHECKING:
    from hpoctl.control import Planned, Repaired, Submitted
    from hpoctl.report import Report


class Format(StrEnum):
    """How a result is shown."""

    TABLE = "table"
    JSON = "json"
    QUIET = "quiet"


def say(text: str) -> None:
    """A line that is not a result: hints, next commands."""
    print(text, file=sys.stderr)


def suggest(command: str, folder: Path = Path()) -> None:
    """The next sensible command, as it can be typed in this shell; in `folder`, if it is there."""
    there = "" if folder == Path() else f"cd {shell_word(str(folder))} && "
    typed: Callable[[Path], str] = str if there else _relative
    program = "hpoctl"
    if Path(sys.argv[0]).name == "__main__.py":
        program = f"{typed(Path(sys.executable))} -m hpoctl"
    elif not shutil.which("hpoctl"):
        program = typed(Path(sys.argv[0]).absolute())
    say(f"next: {there}{program} {command}")


def complain(text: str) -> None:
    """An error, as one line for each thing that is wrong."""
    print(f"hpoctl: {text}", file=sys.stderr)


def show_json(value: object) -> None:
    """A result for programs."""
    print(json.dumps(value, indent=2, default=str))


def show_planned(planned: Planned, form: Format) -> None:
    """`check`: the space, the number of trials, what would run."""
    if form is Format.JSON:
        plan = shapes.plan_shape(planned.plan)
        show_json({"study": planned.sweep.study, "valid": True, **plan, "notes": planned.notes})
        return
    sweep = planned.sweep
    if form is Format.QUIET:
        return
    tables.console().print(tables.space_table(sweep.search_space))
    given = f" ({len(sweep.starts)} of them begin as given)" if sweep.starts else ""
    print(
        f"{many(planned.plan.trials, 'trial')}{given}, sampler {sweep.sampler.name},"
        f" pruner {sweep.pruner.name}, on {sweep.backend}, mode {planned.plan.mode}:"
    )
    for line in tables.array_lines(planned.plan):
        print(f"  {line}")
    for note in planned.notes:
        say(f"note: {note}")
    if planned.plan.cost is not None:
        print(f"expected: {tables.cost_line(planned.plan.cost)}")


def show_plans(plans: Mapping[Mode, Plan | str], form: Format) -> None:
    """`plan`: the modes side by side."""
    if form is Format.JSON:
        show_json(
            {
                mode: {"refused": plan} if isinstance(plan, str) else shapes.plan_shape(plan)
                for mode, plan in plans.items()
            }
        )
        return
    tables.console().print(tables.plans_table(plans))
    if any(isinstance(plan, Plan) and plan.cost is None for plan in plans.values()):
        say("'estimate: {trial: 10m, startup: 2m}' in the sweep file fills in the question marks")


def show_scripts(planned: Planned, form: Format) -> None:
    """`submit --dry-run`: exactly what would be submitted."""
    if form is Format.JSON:
        show_json({**shapes.plan_shape(planned.plan), "scripts": planned.scripts})
        return
    for array in planned.plan.arrays:
        after = f", after {' and '.join(array.after)}" if array.after else ""
        say(f"--- {planned.run_dir.script(array.name)}{after}")
        print(planned.scripts[array.name], end="")


def show_submitted(submitted: Submitted, form: Format, verb: str) -> None:
    """`submit`, `workers add`, `cancel`: the arrays and the next command."""
    if form is Format.JSON:
        show_json(shapes.submitted_shape(submitted))
        return
    for submission in submitted.submissions:
        if form is Format.QUIET:
            print(submission.id)
        else:
            print(f"{verb} {submission.array}: {submission.id} ({many(submission.tasks, 'task')})")
    for note in submitted.notes:
        say(f"note: {note}")
    if not submitted.submissions and not submitted.notes:
        say(f"nothing to do: no trial of '{submitted.study}' waits")
    suggest(f"status {shell_word(submitted.study)}")


def show_status(status: Status, form: Format, repaired: Repaired | None = None) -> None:
    """`status`: what was repaired, counts, best, workers; the next command."""
    if form is Format.JSON:
        done = {} if repaired is None else {"repaired": shapes.repaired_shape(repaired)}
        show_json({**shapes.status_shape(status), **done})
        return
    if repaired is not None:
        print(tables.repaired_line(repaired))
    if form is Format.QUIET:
        print(f"{status.finished}/{sum(status.summary.counts.values())}")
    else:
        print(tables.status_text(status))
        if failed := status.summary.counts[TrialState.FAILED]:
            study = shell_word(status.run.study)
            why, again = f"'hpoctl failures {study}' says why", f"'hpoctl retry {study}' repeats"
            say(f"note: {why} {failed} failed, {again} what failed")
        suggest(_next(status))


@contextmanager
def live_status() -> Iterator[Callable[[Status], None]]:
    """A display that each call brings up to date; plain lines where there is no terminal."""
    if not sys.stderr.isatty():
        yield _ProgressLines()
        return
    from rich.live import Live
    from rich.text import Text

    console = tables.console(stderr=True)
    with Live(console=console, refresh_per_second=4) as live:
        yield lambda status: live.update(Text(tables.status_text(status)))


class _ProgressLines:
    """A line a change, for logs and pipes."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, status: Status) -> None:
        line = f"{tables.counts(status)}; best {tables.best_line(status)}"
        if line != self._last:
            say(line)
            self._last = line


def show_workers(status: Status, form: Format) -> None:
    """`workers list`."""
    if form is Format.JSON:
        show_json([shapes.worker_shape(worker) for worker in status.workers])
    elif form is Format.QUIET:
        print("\n".join(worker.task for worker in status.workers))
    else:
        print(tables.workers_text(status.workers))


def show_trials(records: Sequence[TrialRecord], gist: Gist, form: Format) -> None:
    """`trials`: one line a trial."""
    if form is Format.JSON:
        show_json([shapes.trial_shape(record) for record in records])
        return
    if form is Format.QUIET:
        print("\n".join(str(record.number) for record in records))
        return
    tables.console().print(tables.trials_table(records, gist.metrics, gist.shown))


def show_ended(status: Status) -> None:
    """`run --json`: how it ended."""
    show_json(shapes.status_shape(status))


def report_shape(report: Report) -> dict[str, Path | None]:
    """Where the files of a report are, by what they hold."""
    return {
        "index": report.index,
        "best_config": report.best_config,
        "trials_summary": report.trials_summary,
        "optimization_plot": report.optimization_plot,
        "pareto_front": report.pareto_front,
        "pareto_plot": report.pareto_plot,
        "gpu_hours": report.gpu_hours,
        "trial_results": report.trial_results,
    }


def show_report(report: Report, form: Format) -> None:
    """`report`: where the files are."""
    paths = report_shape(report)
    if form is Format.JSON:
        show_json(paths)
        return
    for path in paths.values():
        if path is not None:
            print(_relative(path))


def show_text(text: str, form: Format) -> None:
    """`logs`: a piece of text as it stands, or as one JSON object a line."""
    print(
        text if form is not Format.JSON else json.dumps({"text": text}) + "\n", end="", flush=True
    )


def show_answer(answer: str, form: Format) -> None:
    """`tell`: what the program should do next."""
    if form is Format.JSON:
        words = ("prune", "checkpoint", "infeasible")
        show_json({word: answer == word for word in words})
    else:
        print(answer)


def show_paths(paths: Sequence[Path], form: Format) -> None:
    """`init`: the files that were written."""
    if form is Format.JSON:
        show_json([str(path) for path in paths])
    else:
        print("\n".join(str(path) for path in paths))


def _next(status: Status) -> str:
    study = shell_word(status.run.study)
    running = status.summary.counts[TrialState.RUNNING]
    if status.spent is not None and not status.live_workers:
        return f"report {study}"  # workers that are added leave at once
    if (status.waiting or running) and not status.live_workers:
        workers = min(status.waiting + running, 4)
        logs = _relative(status.run_dir / "logs")
        return f"workers add {study} -n {workers}   (trials are left, but no worker; see {logs})"
    if (status.waiting or running) and status.held:
        return f"why {study}"
    if status.waiting or running:
        return f"status {study} --watch"
    return f"report {study}"


def _relative(path: Path) -> str:
    """A path as short as it can be typed from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def shell_word(study: str) -> str:
    """A study's name as one word of a shell."""
    return shlex.quote(study)
