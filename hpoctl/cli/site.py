"""Commands on what the site does with a study."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from hpoctl import control
from hpoctl.cli.options import formatted
from hpoctl.errors import BatchSystemError
from hpoctl.finding import Level
from hpoctl.output import Format, delays


@click.command()
@click.argument("study", default="last")
@formatted
def why(study: str, form: str) -> None:
    """Say why tasks of STUDY wait, and what would let them start."""
    delays.show_why(control.read_why(study), Format(form))


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path), required=False)
@click.option("--job", is_flag=True, help="Also run a tiny job on a compute node; waits for it.")
@formatted
def doctor(sweep: Path | None, job: bool, form: str) -> None:
    """Look this site over, for SWEEP if given, and say what will not work, and the way out."""
    found = control.examine(sweep, job=job)
    delays.show_findings(found, Format(form))
    if any(finding.level is Level.FAILS for finding in found):
        sys.exit(BatchSystemError.exit_code)
