"""The flags that every command has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def formatted(command: Command) -> Command:
    """Adds --json, --quiet and --debug; the command gets `form`."""
    quiet = click.option("-q", "--quiet", "form", flag_value="quiet", help="Print ids only.")
    as_json = click.option("--json", "form", flag_value="json", default="table", help="Print JSON.")
    return quiet(as_json(_debug(command)))


def _debug(command: Command) -> Command:
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors."
    )(command)
