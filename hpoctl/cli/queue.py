"""`hpoctl extend` and `hpoctl retry`: more trials for a study that was submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hpoctl import control
from hpoctl.cli.options import formatted, gpu_hours, length, numbers, whole
from hpoctl.output import Format, say
from hpoctl.output.queued import show_extended, show_retried

if TYPE_CHECKING:
    from hpoctl.control import Amount

MOST_RETRIES = 3  # a trial that has failed four times will do so again

_ATTACH = click.option(
    "--workers", type=click.IntRange(min=1), help="Attach so many workers to them, too."
)


@click.command()
@click.argument("study")
@click.option(
    "--trials",
    callback=whole,
    metavar="+N|N",
    help="+20 for 20 trials more, 120 for 120 in all.",
)
@click.option(
    "--time",
    callback=length,
    metavar="+T|T",
    help="+2h for two hours more, 14h for 14 hours in all, from the submission.",
)
@click.option(
    "--gpu-hours",
    callback=gpu_hours,
    metavar="+H|H",
    help="+10 for 10 GPU-hours more, 50 for 50 in all.",
)
@_ATTACH
@formatted
def extend(
    study: str,
    trials: Amount | None,
    time: Amount | None,
    gpu_hours: Amount | None,
    workers: int | None,
    form: str,
) -> None:
    """Give STUDY a larger budget of trials, time or GPU-hours, whether it runs or has ended."""
    if trials is None and time is None and gpu_hours is None:
        raise click.UsageError("say what to extend: --trials +20, --time +2h or --gpu-hours +10")
    asked = control.Raise(trials=trials, time=time, gpu_hours=gpu_hours)
    extended = control.extend(study, asked, workers=workers, note=say)
    show_extended(extended, Format(form))


@click.command()
@click.argument("study")
@click.argument("trials", callback=numbers, required=False)
@click.option(
    "--state",
    type=click.Choice(["failed"]),
    expose_value=False,
    help="The default; no others can be repeated.",
)
@click.option(
    "--max-retries",
    type=click.IntRange(min=1),
    default=MOST_RETRIES,
    show_default=True,
    help="How often a trial is repeated at most.",
)
@_ATTACH
@formatted
def retry(
    study: str,
    trials: tuple[int, ...] | None,
    max_retries: int,
    workers: int | None,
    form: str,
) -> None:
    """Repeat failed trials of STUDY, all or those that TRIALS names, such as 7 or 1-3,9."""
    repeated = control.retry(study, trials, most=max_retries, workers=workers, note=say)
    show_retried(repeated, Format(form))
