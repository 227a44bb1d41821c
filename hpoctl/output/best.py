"""The best trials of a study: one, or the Pareto front of several metrics."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from hpoctl.output import Format, say, shell_word, show_json, suggest, tables
from hpoctl.record import TrialRecord
from hpoctl.space import nest

if TYPE_CHECKING:
    from hpoctl.control import Best


def show_best(best: Best, style: str | None, form: Format) -> None:
    """`best`: parameters as YAML, JSON or flags; a front as a table, or all of it in a style."""
    if not best.is_front:
        show_one(best.trials[0], style or "yaml", form)
    elif form is Format.QUIET:
        print("\n".join(str(trial.number) for trial in best.trials))
    elif form is Format.JSON:
        show_json({"front": [_shape(trial) for trial in best.trials]})
    elif style is None:
        tables.console().print(tables.trials_table(best.trials, best.values, ()))
        say(f"{len(best.trials)} trials that no other one beats in every metric")
        suggest(f"best {shell_word(best.study)} --trial {best.trials[0].number}")
    elif style == "json":
        show_json({str(trial.number): nest(trial.params) for trial in best.trials})
    else:
        for trial in best.trials:
            values = ", ".join(
                f"{name} {value:.6g}"
                for name, value in zip(best.values, trial.values or (), strict=False)
            )
            print(f"{'---' if style == 'yaml' else ''}\n# trial {trial.number}: {values}".lstrip())
            _show_params(trial, style)


def show_one(trial: TrialRecord, style: str, form: Format) -> None:
    """One trial's parameters; with `--json` its number and values too."""
    if form is Format.JSON:
        show_json(_shape(trial))
    elif form is Format.QUIET:
        print(trial.number)
    else:
        _show_params(trial, style)


def _show_params(trial: TrialRecord, style: str) -> None:
    if style == "json":
        show_json(nest(trial.params))
    elif style == "flags":
        print(shlex.join(f"--{name.split('.')[-1]}={v}" for name, v in trial.params.items()))
    else:
        from hpoctl import config

        print(config.dump(nest(trial.params)), end="")


def _shape(trial: TrialRecord) -> dict[str, object]:
    return {"number": trial.number, "values": trial.values, "params": nest(trial.params)}
