"""`confirm`, `train` and `fit`: what follows a search, and what comes before it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from hpoctl import control, output
from hpoctl.cli.options import Command, formatted, numbers
from hpoctl.errors import ConfigError
from hpoctl.output import Format
from hpoctl.output.after import (
    show_confirmation,
    show_fitted,
    show_rehearsal,
    show_trained,
)

if TYPE_CHECKING:
    from hpoctl.control.derived import Watch

_KEYS = ("backend", "workers")


_by = click.option(
    "--by", metavar="METRIC", help="Of several metrics, the front's best in this one."
)


def derived(command: Command) -> Command:
    """Adds the flags that change keys of the sweep that is made, `--wait` and `--dry-run`."""

    @functools.wraps(command)
    def with_overrides(overrides: tuple[str, ...], **given: Any) -> Any:
        flags = [f"{key}={given.pop(key)}" for key in _KEYS if given.get(key) is not None]
        rest = {key: value for key, value in given.items() if key not in _KEYS}
        return command(overrides=(*overrides, *flags), **rest)

    decorators = (
        click.option("--backend", help="slurm or local (without: as the study)."),
        click.option("--workers", help="How many run at once."),
        click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY.KEY=VALUE",
            help="Change a key of the sweep that is made; may be given again.",
        ),
        click.option("--wait", is_flag=True, help="Wait until it has ended."),
        click.option("--dry-run", is_flag=True, help="Print its sweep file and submit nothing."),
        formatted,
    )
    wrapped: Any = with_overrides
    for decorator in reversed(decorators):
        wrapped = decorator(wrapped)
    return cast(Command, wrapped)


@contextmanager
def _watching(wait: bool) -> Iterator[Watch | None]:
    if not wait:
        yield None
        return
    with output.live_status() as watch:
        yield watch


@click.command()
@click.argument("study", default="last")
@click.option("--top", type=click.IntRange(min=1), help="So many of the best trials (without: 3).")
@click.option("--trials", callback=numbers, help="These trials instead, such as 7 or 1-3,9.")
@click.option("--seeds", type=click.IntRange(min=1), help="How often each runs (without: 5).")
@_by
@click.option("--name", help="Name of its study (without: STUDY-confirm).")
@derived
def confirm(
    study: str,
    top: int | None,
    trials: tuple[int, ...] | None,
    seeds: int | None,
    by: str | None,
    name: str | None,
    overrides: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Run the winners of STUDY again with other seeds; given again, say how they did."""
    if top is not None and trials is not None:
        raise ConfigError("--top and --trials exclude each other: give one of them")
    wanted = control.ConfirmRequest(
        study=study, top=top, trials=trials, seeds=seeds, by=by, name=name, overrides=overrides
    )
    if dry_run:
        text, planned = control.rehearse_confirm(wanted)
        again = f"confirm {output.shell_word(study)}"
        show_rehearsal(text, planned, Format(form), again)
        return
    with _watching(wait) as watch:
        done = control.confirm(wanted, watch)
    show_confirmation(done, Format(form))


@click.command()
@click.argument("study", default="last")
@click.option("--best", is_flag=True, help="With the parameters of the best trial; the default.")
@click.option("--trial", type=click.IntRange(min=0), help="With those of this trial.")
@click.option("--ensemble", type=click.IntRange(min=2), help="So many of the best, averaged.")
@_by
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="Copy it there.")
@derived
def train(
    study: str,
    best: bool,
    trial: int | None,
    ensemble: int | None,
    by: str | None,
    out: Path | None,
    overrides: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Train the final model of STUDY; given again, collect it with its card."""
    if (trial is not None) + (ensemble is not None) + best > 1:
        raise ConfigError("--best, --trial and --ensemble exclude each other: give one of them")
    if trial is not None and by is not None:
        raise ConfigError(
            "--trial and --by exclude each other: a trial that is named needs no rule"
        )
    wanted = control.TrainRequest(
        study=study, trial=trial, members=ensemble, by=by, output=out, overrides=overrides
    )
    if dry_run:
        text, planned = control.rehearse_train(wanted)
        show_rehearsal(text, planned, Format(form), f"train {output.shell_word(study)}")
        return
    with _watching(wait) as watch:
        done = control.train(wanted, watch)
    show_trained(done, Format(form))


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(min=1), default=3, help="So many steps at each point.")
@click.option("--corners", type=click.IntRange(min=1), default=12, help="At most so many corners.")
@click.option("--max-batch", type=click.IntRange(min=1), default=1024, help="The largest to try.")
@click.option("--memory", type=click.FloatRange(min=0, min_open=True), help="GB that a trial has.")
@derived
def fit(
    sweep: Path,
    steps: int,
    corners: int,
    max_batch: int,
    memory: float | None,
    overrides: tuple[str, ...],
    wait: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Try the corners of SWEEP's space for a few steps: memory, step time, largest batch.

    Runs on this machine and waits, unless it is told --backend slurm.
    """
    here = not any(flag.startswith("backend=") for flag in overrides)
    wanted = control.FitRequest(
        request=control.Request(
            sweep_file=sweep, overrides=(*overrides, *(["backend=local"] if here else []))
        ),
        steps=steps,
        corners=corners,
        batch=max_batch,
        limit_gb=memory,
    )
    again = f"fit {sweep}" + "".join(f" --set {output.shell_word(flag)}" for flag in overrides)
    if dry_run:
        text, planned = control.rehearse_fit(wanted)
        show_rehearsal(text, planned, Format(form), again)
        return
    local = "backend=local" in wanted.request.overrides
    with _watching(wait or local) as watch:
        done = control.fit(wanted, watch)
    show_fitted(done, Format(form), again)
