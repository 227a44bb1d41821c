"""Commands on a study that was submitted."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hpoctl import control, output
from hpoctl.cli.options import formatted, numbers
from hpoctl.output import Format
from hpoctl.output.after import show_confirmed_report
from hpoctl.output.best import show_best
from hpoctl.output.failures import show_failures
from hpoctl.record import TrialState

_WATCH_S = 5.0


@click.command()
@click.argument("study", default="last")
@click.option("--watch", is_flag=True, help="Show it again every few seconds until it has ended.")
@click.option("--repair", is_flag=True, help="First queue lost trials again, deliver results.")
@formatted
def status(study: str, watch: bool, repair: bool, form: str) -> None:
    """Show counts, the best trial and the workers of STUDY."""
    repaired = control.repair(study, output.say) if repair else None
    now = control.read_status(study, accounting=repair)
    if watch:
        with output.live_status() as show:
            while show(now) or now.live_workers:
                time.sleep(_WATCH_S)
                now = control.read_status(study)
    output.show_status(now, Format(form), repaired)


@click.command()
@click.argument("study", default="last")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([state.value for state in TrialState]),
    help="Only trials in this state; may be given again.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV: the report's trials_summary.csv.")
@formatted
def trials(study: str, states: tuple[str, ...], as_csv: bool, form: str) -> None:
    """List the trials of STUDY."""
    if as_csv:
        output.show_text(control.read_trials_csv(study, states), Format.TABLE)
        return
    records, gist = control.read_trials(study)
    kept = [record for record in records if not states or record.state in states]
    output.show_trials(kept, gist, Format(form))


@click.command()
@click.argument("study", default="last")
@formatted
def failures(study: str, form: str) -> None:
    """Show what failed in STUDY, by class and last line, with the first traceback of each."""
    show_failures(control.read_failures(study), Format(form))


@click.command()
@click.argument("study")
@click.argument("trials", callback=numbers, metavar="TRIALS")
@click.option("-f", "--follow", is_flag=True, help="Go on until the trial has ended.")
@formatted
def logs(study: str, trials: tuple[int, ...], follow: bool, form: str) -> None:
    """Print the logs of TRIALS, such as 7 or 1-3,9, whatever workers ran them."""
    for trial in trials:
        if len(trials) > 1 and Format(form) is Format.TABLE:
            output.show_text(f"==> trial {trial} <==\n", Format(form))
        for text in control.read_log(study, trial, follow=follow):
            output.show_text(text, Format(form))


@click.command()
@click.argument("study", default="last")
@click.option("--format", "style", type=click.Choice(["yaml", "json", "flags"]))
@click.option("--trial", type=click.IntRange(min=0), help="Of this trial, instead of the best.")
@formatted
def best(study: str, style: str | None, trial: int | None, form: str) -> None:
    """Print the best parameters of STUDY; --json adds the trial's number and values.

    With several metrics: the Pareto front, the trials that no other one beats in all of them.
    """
    show_best(control.read_best(study, trial), style, Format(form))


@click.command()
@click.argument("study", default="last")
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Where to write it.")
@formatted
def report(study: str, out: Path | None, form: str) -> None:
    """Write the best configuration, a table of trials, a plot and a folder a trial."""
    written, confirmed = control.write_report(study, out), control.read_confirmation(study)
    if confirmed is not None:
        show_confirmed_report(written, confirmed, Format(form))
        return
    output.show_report(written, Format(form))
    output.suggest(f"best {output.shell_word(study)} --format flags")


@click.command()
@click.argument("study")
@formatted
def cancel(study: str, form: str) -> None:
    """End all job arrays of STUDY; waiting trials stay queued."""
    output.show_submitted(control.cancel(study), Format(form), "ended")
