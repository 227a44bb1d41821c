"""The command line: parses, calls `control`, hands the result to `output`."""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from hpoctl import control, output
from hpoctl.cli.db import db
from hpoctl.cli.options import Command, formatted
from hpoctl.errors import ConfigError, HpoctlError
from hpoctl.output import Format
from hpoctl.record import TrialState

if TYPE_CHECKING:
    from hpoctl.control import Request

PRUNE_EXIT_CODE = 5  # of `hpoctl tell`: the pruner wants the trial to end
_WATCH_S = 5.0


def main() -> None:
    """Runs a command; ends with its exit code: 0, 2 configuration, 3 batch system, 4 study."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as nothing_asked:
        nothing_asked.show()
        sys.exit(ConfigError.exit_code)
    except click.UsageError as wrong:
        command = wrong.ctx.command_path if wrong.ctx else "hpoctl"
        output.complain(f"{wrong.format_message().rstrip('.')}; see '{command} --help'")
        sys.exit(ConfigError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # head closed the pipe
        sys.exit(0)
    except HpoctlError as wrong:
        if _debugging():
            raise
        output.complain(str(wrong))
        sys.exit(wrong.exit_code)
    except Exception as wrong:
        if _debugging():
            raise
        output.complain(f"{type(wrong).__name__}: {wrong}; add --debug to see where")
        sys.exit(HpoctlError.exit_code)


def _debugging() -> bool:
    return "--debug" in sys.argv or bool(os.environ.get("HPOCTL_DEBUG"))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hpoctl")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def cli() -> None:
    """Tune language models on Slurm, with workers that share one study.

    Start with 'hpoctl init', then 'hpoctl check', 'hpoctl submit' and 'hpoctl status'.
    STUDY is a study's name, its run directory, or 'last'.
    """


def swept(command: Command) -> Command:
    """Adds the sweep file and the flags that change its keys; the command gets `request`."""

    @functools.wraps(command)
    def with_request(
        sweep: Path, overrides: tuple[str, ...], run_dir: Path | None, **given: Any
    ) -> Any:
        flags = [f"{key}={given.pop(key)}" for key in _KEYS if given.get(key) is not None]
        rest = {key: value for key, value in given.items() if key not in _KEYS}
        request = control.Request(sweep_file=sweep, overrides=(*overrides, *flags), run_dir=run_dir)
        return command(request, **rest)

    decorators = (
        click.argument("sweep", type=click.Path(path_type=Path)),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY.KEY=VALUE",
            help="Change a key of the sweep file; may be given again.",
        ),
        click.option("--mode", help="batch, sequential, async or auto."),
        click.option("--workers", help="How many workers run at once."),
        click.option("--backend", help="slurm or local."),
        click.option(
            "--run-dir",
            type=click.Path(path_type=Path),
            help="Where to keep the run (without: runs/<study>).",
        ),
    )
    wrapped: Any = with_request
    for decorator in reversed(decorators):
        wrapped = decorator(wrapped)
    return cast(Command, wrapped)


_KEYS = ("mode", "workers", "backend")

cli.add_command(db)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@formatted
def init(folder: Path, form: str) -> None:
    """Write a starter sweep and its objective to FOLDER."""
    written = control.init(folder)
    output.show_paths(written, Format(form))
    sweep = next(path for path in written if path.name == "sweep.yaml")
    output.suggest(f"check {sweep}")


@cli.command()
@swept
@formatted
def check(request: Request, form: str) -> None:
    """Validate SWEEP and show what would run; writes nothing."""
    output.show_planned(control.plan(request), Format(form))
    flags = "".join(f" --set {output.shell_word(flag)}" for flag in request.overrides)
    output.suggest(f"submit {request.sweep_file}{flags} --dry-run")


@cli.command()
@swept
@formatted
def plan(request: Request, form: str) -> None:
    """Compare the modes for SWEEP: arrays, makespan, GPU-hours, startup."""
    output.show_plans(control.compare(request), Format(form))
    output.suggest(f"submit {request.sweep_file} --mode MODE")


@cli.command()
@swept
@click.option("--dry-run", is_flag=True, help="Print the scripts and submit nothing.")
@formatted
def submit(request: Request, dry_run: bool, form: str) -> None:
    """Queue the trials of SWEEP, submit its job arrays, and return."""
    if dry_run:
        output.show_scripts(control.plan(request), Format(form))
        output.suggest(f"submit {request.sweep_file}")
        return
    output.show_submitted(control.submit(request), Format(form), "submitted")


@cli.command()
@swept
@formatted
def run(request: Request, form: str) -> None:
    """Run SWEEP on this machine, wait with a progress display, and write the report."""
    with output.live_status() as watch:
        ended = control.run(request, watch)
    report = control.write_report(str(ended.run_dir), None)
    control.check_ended(ended)
    if Format(form) is Format.JSON:
        output.show_ended(ended)
        return
    if ended.summary.best is not None:
        output.show_best(ended.summary.best, "yaml", Format(form))
    output.show_report(report, Format(form))
    output.suggest(f"trials {output.shell_word(ended.run.study)}")


@cli.group()
def workers() -> None:
    """Attach, show and drain the workers of a study."""


@workers.command("add")
@click.argument("study")
@click.option("-n", "count", type=click.IntRange(min=1), required=True, help="How many.")
@click.option("--time", help="Walltime of each, such as 2h.")
@click.option("--partition")
@click.option("--account")
@click.option("--qos")
@click.option("--gpus", help="GPUs of each, such as 1 or A100:1.")
@click.option("--cpus")
@click.option("--mem")
@formatted
def add(study: str, count: int, form: str, **resources: str | None) -> None:
    """Attach workers to STUDY while it runs; the budget stays what it was."""
    changed = [f"resources.{key}={value}" for key, value in resources.items() if value is not None]
    output.show_submitted(control.add_workers(study, count, changed), Format(form), "attached")


@workers.command("list")
@click.argument("study", default="last")
@formatted
def list_(study: str, form: str) -> None:
    """Show the workers of STUDY as Slurm and the study know them."""
    output.show_workers(control.read_status(study), Format(form))


@workers.command()
@click.argument("study")
@formatted
def drain(study: str, form: str) -> None:
    """Let every worker of STUDY finish its trial and leave; waiting trials stay queued."""
    control.drain_workers(study)
    output.show_workers(control.read_status(study), Format(form))
    output.suggest(f"workers list {output.shell_word(study)}")


@cli.command()
@click.argument("study", default="last")
@click.option("--watch", is_flag=True, help="Show it again every few seconds until it has ended.")
@formatted
def status(study: str, watch: bool, form: str) -> None:
    """Show counts, the best trial and the workers of STUDY."""
    now = control.read_status(study)
    if watch:
        with output.live_status() as show:
            while show(now) or now.live_workers:
                time.sleep(_WATCH_S)
                now = control.read_status(study)
    output.show_status(now, Format(form))


@cli.command()
@click.argument("study", default="last")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in TrialState]),
    help="Only trials in this state; may be given again.",
)
@formatted
def trials(study: str, states: tuple[str, ...], form: str) -> None:
    """List the trials of STUDY."""
    records, metrics = control.read_trials(study)
    kept = [record for record in records if not states or record.state in states]
    output.show_trials(kept, metrics, Format(form))


@cli.command()
@click.argument("study")
@click.argument("trial", type=click.IntRange(min=0))
@click.option("-f", "--follow", is_flag=True, help="Go on until the trial has ended.")
@formatted
def logs(study: str, trial: int, follow: bool, form: str) -> None:
    """Print the log of TRIAL, whatever worker ran it."""
    for text in control.read_log(study, trial, follow=follow):
        output.show_text(text, Format(form))


@cli.command()
@click.argument("study", default="last")
@click.option("--format", "style", type=click.Choice(["yaml", "json", "flags"]), default="yaml")
@formatted
def best(study: str, style: str, form: str) -> None:
    """Print the best parameters of STUDY; --json adds the trial's number and values."""
    output.show_best(control.read_best(study), style, Format(form))


@cli.command()
@click.argument("study", default="last")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Where to write it.")
@formatted
def report(study: str, out: Path | None, form: str) -> None:
    """Write the best configuration, a table of trials, a plot and a folder a trial."""
    output.show_report(control.write_report(study, out), Format(form))
    output.suggest(f"best {output.shell_word(study)} --format flags")


@cli.command()
@click.argument("study")
@formatted
def cancel(study: str, form: str) -> None:
    """End all job arrays of STUDY; waiting trials stay queued."""
    output.show_submitted(control.cancel(study), Format(form), "ended")


@cli.command()
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--step", type=int, help="Training step: makes it a report, not the result.")
@formatted
def tell(values: tuple[str, ...], step: int | None, form: str) -> None:
    """Give values of the running trial, from a program started by 'command:'.

    Prints 'go on' or 'prune'; its exit code is 5 when the pruner wants the trial to end.
    """
    from hpoctl.objectives.command import tell as tell_worker

    prune = tell_worker(dict(_named_number(value) for value in values), step, os.environ)
    output.show_answer(prune, Format(form))
    if prune:
        sys.exit(PRUNE_EXIT_CODE)


def _named_number(given: str) -> tuple[str, float]:
    name, _, text = given.partition("=")
    try:
        return name, float(text)
    except ValueError:
        raise ConfigError(f"{given}: write NAME=NUMBER, such as eval_loss=2.31") from None


@cli.command(hidden=True)
@click.argument("run_dir", type=click.Path(path_type=Path))
def worker(run_dir: Path) -> None:
    """Work the queue of a run off; slurm/worker.sh calls it in an allocation."""
    from hpoctl.rundir import RunDir
    from hpoctl.worker import work

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    work(RunDir(run_dir.absolute()), os.environ)
