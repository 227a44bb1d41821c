"""`hpoctl db`: a private PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import click

from hpoctl import output
from hpoctl.cli.options import Command, formatted
from hpoctl.control import db as control
from hpoctl.control.db import DbRequest
from hpoctl.output import Format, private

_PATH = click.Path(path_type=Path)


def _in_folder(command: Command) -> Command:
    return click.argument("folder", metavar="[DIR]", type=_PATH, required=False)(command)


@click.group()
def db() -> None:
    """Run a private PostgreSQL as an ordinary user.

    DIR is its folder; without it, ~/.local/share/hpoctl/db.
    """


@db.command()
@_in_folder
@click.option("--port", type=click.IntRange(1024, 65_535), help="Without: by chance, then kept.")
@click.option("--host", help="The name by which compute nodes reach this machine.")
@click.option("--foreground", is_flag=True, help="Stay, and stop the server when ended.")
@formatted
def up(
    folder: Path | None, port: int | None, host: str | None, foreground: bool, form: str
) -> None:
    """Start the server of DIR; make it first if there is none."""
    request = DbRequest(folder=folder, port=port, host=host)
    if foreground:
        control.serve(request, lambda started: private.show_change(started, Format(form)))
        return
    private.show_change(control.up(request), Format(form))
    output.suggest("submit SWEEP")


@db.command()
@_in_folder
@formatted
def status(folder: Path | None, form: str) -> None:
    """Show whether the server of DIR runs, and where."""
    private.show_status(control.status(folder), Format(form))


@db.command()
@_in_folder
@click.option("--show-password", is_flag=True, help="Print the whole URL, with its password.")
@formatted
def url(folder: Path | None, show_password: bool, form: str) -> None:
    """Show the URL of the server of DIR, and what to write in a sweep file."""
    secret = control.secret_url(folder) if show_password else None
    private.show_url(control.status(folder), secret, Format(form))


@db.command()
@_in_folder
@click.option("-o", "--output", "out", type=_PATH, help="Where to write it (without: DIR/backup).")
@formatted
def backup(folder: Path | None, out: Path | None, form: str) -> None:
    """Write all studies of the server of DIR to a file for pg_restore."""
    output.show_paths((control.backup(folder, out),), Format(form))


@db.command()
@_in_folder
@formatted
def down(folder: Path | None, form: str) -> None:
    """Shut the server of DIR down; its data stays."""
    private.show_change(control.down(folder), Format(form))
