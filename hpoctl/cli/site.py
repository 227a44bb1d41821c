"""Commands on what the site does with a study."""

from __future__ import annotations

import click

from hpoctl import control, output
from hpoctl.cli.options import formatted
from hpoctl.output import Format


@click.command()
@click.argument("study", default="last")
@formatted
def why(study: str, form: str) -> None:
    """Say why tasks of STUDY wait, and what would let them start."""
    output.show_why(control.read_why(study), Format(form))
