"""What several commands take: the flags of all, numbers of trials, a budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

_NUMBERS = re.compile(r"\s*([0-9]{1,7})\s*(?:-\s*([0-9]{1,7})\s*)?")
_BUDGET = re.compile(r"(\+?)([0-9]{1,7})")

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


def numbers(
    ctx: click.Context, param: click.Parameter, given: str | None
) -> tuple[int, ...] | None:
    """The trials that `7` or `1-3,9` names, in order; a callback."""
    if given is None:
        return None
    named: set[int] = set()
    for part in given.split(","):
        match = _NUMBERS.fullmatch(part)
        if match is None:
            raise click.BadParameter(f"{given!r} names no trials, write 7 or 1-3,9", ctx, param)
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            hint = f"write {last}-{first}"
            raise click.BadParameter(f"{part} ends before it begins, {hint}", ctx, param)
        named.update(range(first, last + 1))
    return tuple(sorted(named))


def budget(ctx: click.Context, param: click.Parameter, given: str) -> tuple[int, bool]:
    """`+20` for 20 trials more, or `120` for 120 in all: the number, and if more; a callback."""
    match = _BUDGET.fullmatch(given)
    if match is None or not int(match[2]):
        hint = "write +20 for 20 trials more, or 120 for 120 in all"
        raise click.BadParameter(f"{given!r} is no number of trials, {hint}", ctx, param)
    return int(match[2]), bool(match[1])
