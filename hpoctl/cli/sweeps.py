"""Commands on a sweep file: before a study, and up to its start."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from hpoctl import control, output
from hpoctl.cli.options import Command, formatted
from hpoctl.output import Format, models

if TYPE_CHECKING:
    from hpoctl.control import Request

_KEYS = ("mode", "workers", "backend")


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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option(
    "--template",
    default="starter",
    show_default=True,
    help="lora, scratch, trainer, pytorch, lightning, command or starter.",
)
@formatted
def init(folder: Path, template: str, form: str) -> None:
    """Write a sweep to begin with, and its objective, to FOLDER."""
    written = control.init(folder, template)
    output.show_paths(written, Format(form))
    sweep = next(path for path in written if path.name == "sweep.yaml")
    output.suggest(f"check {sweep.name}", folder=sweep.parent)


@click.command()
@swept
@formatted
def check(request: Request, form: str) -> None:
    """Validate SWEEP and show what would run; writes nothing."""
    output.show_planned(control.plan(request), Format(form))
    flags = "".join(f" --set {output.shell_word(flag)}" for flag in request.overrides)
    output.suggest(f"submit {request.sweep_file}{flags} --dry-run")


@click.command()
@swept
@formatted
def plan(request: Request, form: str) -> None:
    """Compare the modes for SWEEP: arrays, makespan, GPU-hours, startup."""
    output.show_plans(control.compare(request), Format(form))
    output.suggest(f"submit {request.sweep_file} --mode MODE")


@click.command()
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


@click.command()
@swept
@formatted
def prefetch(request: Request, form: str) -> None:
    """Fetch the models and data of SWEEP from the hub; its workers then ask no hub."""
    models.show_fetched(control.fetch(request), Format(form))
    output.suggest(f"submit {request.sweep_file}")


@click.command()
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
