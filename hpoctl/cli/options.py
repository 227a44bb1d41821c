"""What several commands take: the flags of all, numbers of trials, a larger budget."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from hpoctl.control import Amount

_NUMBERS = re.compile(r"\s*([0-9]{1,7})\s*(?:-\s*([0-9]{1,7})\s*)?")
_TRIALS = re.compile(r"[0-9]{1,7}")
_HOURS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?|\.[0-9]{1,9}")

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


def whole(ctx: click.Context, param: click.Parameter, given: str | None) -> Amount | None:
    """`+20` for 20 trials more, or `120` for 120 in all; a callback."""

    def number(text: str) -> float:
        return int(text) if _TRIALS.fullmatch(text) else 0

    hint = "write +20 for 20 trials more, or 120 for 120 in all"
    return _amount(number, given, f"is no number of trials, {hint}", ctx, param)


def length(ctx: click.Context, param: click.Parameter, given: str | None) -> Amount | None:
    """`+2h` for two hours more, or `14h` for 14 hours in all, in seconds; a callback."""

    def seconds(text: str) -> float:
        from hpoctl.sweep import parse_duration  # which is slow to load

        return parse_duration(text).total_seconds()

    hint = "write +2h for two hours more, or 14h for 14 hours in all"
    return _amount(seconds, given, f"is no time, {hint}", ctx, param)


def gpu_hours(ctx: click.Context, param: click.Parameter, given: str | None) -> Amount | None:
    """`+10` for 10 GPU-hours more, or `50` for 50 in all; a callback."""

    def hours(text: str) -> float:
        return float(text) if _HOURS.fullmatch(text) else 0.0

    hint = "write +10 for 10 GPU-hours more, or 50 for 50 in all"
    return _amount(hours, given, f"is no number of GPU-hours, {hint}", ctx, param)


def _amount(
    read: Callable[[str], float],
    given: str | None,
    wrong: str,
    ctx: click.Context,
    param: click.Parameter,
) -> Amount | None:
    """What stands after a `+` or alone, which is more than nothing."""
    if given is None:
        return None
    from hpoctl.control import Amount

    try:
        value = read(given.removeprefix("+"))
    except ValueError:
        value = 0.0
    if not value:
        raise click.BadParameter(f"{given!r} {wrong}", ctx, param)
    return Amount(value=value, more=given.startswith("+"), typed=given)
