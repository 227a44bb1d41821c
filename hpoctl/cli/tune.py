"""The course text's command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpoctl import control, output
from hpoctl.cli.options import formatted
from hpoctl.output import Format, models
from hpoctl.words import BackendName

_FILE = click.Path(path_type=Path)


def _with_dashes(flag: str) -> str:
    return flag.replace("_", "-")


@click.command(context_settings={"token_normalize_func": _with_dashes})
@click.option("--base-model", required=True, help="Name on the hub, folder, or GGUF file.")
@click.option("--train-file", type=_FILE, required=True, help="JSONL, CSV, text or Parquet.")
@click.option("--validation-file", type=_FILE, required=True, help="What is measured on.")
@click.option("--output-dir", type=_FILE, required=True, help="The run and its results.")
@click.option("--search-space", type=_FILE, required=True, help="YAML file of the search space.")
@click.option("--num-trials", "trials", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--optimization-objective",
    "objective",
    default="eval_loss",
    show_default=True,
    help="A metric, or 'multi:eval_loss,eval_accuracy'.",
)
@click.option("--optimization-weights", "weights", help="A number for each objective: 0.7,0.3.")
@click.option(
    "--time-budget-hours",
    "time_hours",
    type=click.FloatRange(min=0, min_open=True),
    help="Start no trial after so many hours.",
)
@click.option(
    "--pruning-factor", type=float, help="Of trials at a rung, one in so many goes on: 2, 3, …"
)
@click.option(
    "--parallel-trials",
    "parallel",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Workers at once; with GPUs, each has its own.",
)
@click.option(
    "--memory-constraint",
    "memory_gb",
    type=click.FloatRange(min=0, min_open=True),
    help="Gigabytes that a trial may take at most.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--gpus", type=click.IntRange(min=0), help="GPUs a worker (without: 1 if any).")
@click.option(
    "--backend",
    type=click.Choice([name.value for name in BackendName]),
    default="local",
    show_default=True,
)
@click.option("--set", "overrides", multiple=True, metavar="KEY.KEY=VALUE", help="As in 'submit'.")
@formatted
def tune(backend: str, overrides: tuple[str, ...], form: str, **given: Any) -> None:
    """Tune a language model by flags: writes the sweep file for them and runs it.

    Flags may be written with underscores. The results are in OUTPUT_DIR, and so is sweep.yaml, with
    which 'hpoctl run' and 'hpoctl submit' do the same.
    """
    request = control.TuneRequest(backend=BackendName(backend), overrides=overrides, **given)
    if request.backend is not BackendName.LOCAL:
        output.show_submitted(control.submit_tuning(request), Format(form), "submitted")
        return
    with output.live_status() as watch:
        ended = control.tune(request, watch)
    report = control.write_report(str(ended.run_dir), None)
    control.check_ended(ended)
    models.show_tuned(ended, report, Format(form), lower=request.lower_is_better)
