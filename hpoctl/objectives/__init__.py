"""Objectives: each runs one trial and returns its value. Here a sweep's objective is found."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpoctl.errors import ConfigError
from hpoctl.objectives import command
from hpoctl.sweep import Sweep
from hpoctl.trial import Objective

Prepare = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """An objective, and what the worker does once before the first trial (nothing if None)."""

    run: Objective
    prepare: Prepare | None = None


def load(sweep: Sweep) -> Loaded:
    """The objective that a sweep names, imported. Raises ConfigError where there is none.

    `module:function` names any callable; `module` alone stands for its `objective`. A function
    `prepare(objective_args)` of the module is called once in the worker, before it forks.
    """
    if sweep.command is not None:
        return Loaded(run=command.runner(sweep.command, [m.name for m in sweep.metrics]))
    assert sweep.objective is not None, "refused by validation"
    module_name, _, attribute = sweep.objective.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and module_name.startswith(missing.name):
            hint = "it is looked for in the folder of 'hpoctl submit' and among the packages"
        else:
            hint = f"it needs '{missing.name}': pip install 'hpoctl[llm]' brings the usual ones"
        raise ConfigError(f"objective: no module '{module_name}': {hint}") from missing
    function = getattr(module, attribute or "objective", None)
    if not callable(function):
        raise ConfigError(
            f"objective: module '{module_name}' has no function '{attribute or 'objective'}'"
        )
    return Loaded(run=function, prepare=getattr(module, "prepare", None))
