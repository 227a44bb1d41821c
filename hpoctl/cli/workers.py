"""`hpoctl workers`: attach, show, drain."""

from __future__ import annotations

import click

from hpoctl import control, output
from hpoctl.cli.options import formatted
from hpoctl.output import Format


@click.group()
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
@click.option("--instead", is_flag=True, help="In place of those that have not started.")
@formatted
def add(study: str, count: int, instead: bool, form: str, **resources: str | None) -> None:
    """Attach workers to STUDY while it runs; the budget stays what it was."""
    changed = [f"resources.{key}={value}" for key, value in resources.items() if value is not None]
    attached = control.add_workers(study, count, changed, output.say, instead=instead)
    output.show_submitted(attached, Format(form), "attached")


@workers.command("list")
@click.argument("study", default="last")
@formatted
def list_(study: str, form: str) -> None:
    """Show the workers of STUDY as Slurm and the study know them."""
    output.show_workers(control.read_status(study), Format(form))


@workers.command()
@click.argument("study")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@formatted
def trust(study: str, nodes: tuple[str, ...], form: str) -> None:
    """Let trials of STUDY run again on nodes that it avoids, once they are mended."""
    control.trust_nodes(study, nodes)
    output.show_workers(control.read_status(study), Format(form))
    output.say(f"'{study}' uses {' and '.join(nodes)} again")


@workers.command()
@click.argument("study")
@formatted
def drain(study: str, form: str) -> None:
    """Let every worker of STUDY finish its trial and leave; waiting trials stay queued."""
    control.drain_workers(study)
    output.show_workers(control.read_status(study), Format(form))
    output.suggest(f"workers list {output.shell_word(study)}")
