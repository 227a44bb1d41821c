"""Objectives: each runs one trial and returns its value. Here a sweep's objective is found."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable
from types import ModuleType

from hpoctl.errors import ConfigError
from hpoctl.objectives import command
from hpoctl.objectives.causal_lm import hub
from hpoctl.samplers import Pbt
from hpoctl.space import Categorical, Distribution, Value, nest
from hpoctl.sweep import Sweep
from hpoctl.trial import Objective

_OWN = ("causal_lm", "inference", "toy")


def saves_itself(objective: Objective) -> bool:
    """Whether an objective goes on where it saved itself: it or its module says `checkpoints`."""
    module = sys.modules.get(getattr(objective, "__module__", ""))
    return bool(getattr(objective, "checkpoints", getattr(module, "checkpoints", False)))


def hub_names(sweep: Sweep) -> tuple[hub.HubName, ...] | None:
    """What a sweep's trials may ask a hub for; None where its objective does not say."""
    if sweep.objective is None or not sweep.objective.startswith(__name__):
        return None
    parameters = sweep.search_space.parameters
    searched = {name: d.choices for name, d in parameters.items() if isinstance(d, Categorical)}
    return hub.hub_names(sweep.objective_args, searched)


def to_fetch(sweep: Sweep) -> list[str]:
    """What a sweep's workers will ask a hub for, as it was not fetched here before."""
    return hub.to_fetch(hub_names(sweep) or ())


def check(sweep: Sweep) -> None:
    """What one of these objectives can tell of a sweep before anything is loaded.

    Raises ValueError or Infeasible, as `group.name: what is wrong`.
    """
    if sweep.objective is None or not sweep.objective.startswith(f"{__name__}."):
        return
    module = _own_module(sweep.objective)
    if (own := getattr(module, "check", None)) is not None:
        searched = nest({name: _some(d) for name, d in sweep.search_space.parameters.items()})
        wanted = {
            "metrics": [metric.name for metric in sweep.metrics],
            "constraints": [constraint.name for constraint in sweep.constraints],
        }
        resources = sweep.resources  # which may bring files that only a compute node sees
        files = not resources.setup and resources.container is None
        own(sweep.objective_args, searched, wanted, files=files)
    _check_heirs(sweep, getattr(module, "shapes", lambda name: False))


def _check_heirs(sweep: Sweep, shapes: Callable[[str], bool]) -> None:
    """Raises ValueError where a mutation changes what inherited weights are the weights of."""
    if not isinstance(sweep.sampler, Pbt) or not sweep.sampler.hands_on:
        return
    for name in sweep.search_space.parameters:
        if shapes(name) and sweep.sampler.mutates(name):
            raise ValueError(
                f"{name}: weights that are inherited do not fit another value: leave it out of"
                " sampler.mutate, or train anew each time by 'inherit: nothing'"
            )


def _own_module(objective: str) -> ModuleType:
    """The module of one of these objectives. Raises ValueError where there is no such one."""
    name, _, attribute = objective.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name is None or not name.startswith(missing.name):
            raise
        close = difflib.get_close_matches(name, [f"{__name__}.{own}" for own in _OWN], n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(_OWN)}"
        raise ValueError(f"objective: no module '{name}'; {hint}") from None
    if not callable(getattr(module, attribute or "objective", None)):
        raise ValueError(f"objective: {name} has no function '{attribute}': leave it out")
    return module


def _some(distribution: Distribution) -> tuple[Value, ...]:
    """Both ends of a range, or all of a list: values that the objective has to bear."""
    if isinstance(distribution, Categorical):
        return distribution.choices
    return (distribution.low, distribution.high)


def ready(sweep: Sweep) -> Objective:
    """The objective that a sweep names, imported and prepared. Raises ConfigError if it cannot be.

    `module:function` names any callable; `module` alone stands for its `objective`. A function
    `prepare(objective_args)` of the module is called here, once in a worker, before it forks.
    """
    if sweep.command is not None:
        return command.runner(sweep.command, [metric.name for metric in sweep.metrics])
    assert sweep.objective is not None, "refused by validation"
    module_name, _, attribute = sweep.objective.partition(":")
    if names := hub_names(sweep):
        hub.go_offline(names)
    try:
        module = importlib.import_module(module_name)
        function = getattr(module, attribute or "objective", None)
        if not callable(function):
            raise ConfigError(
                f"objective: module '{module_name}' has no function '{attribute or 'objective'}'"
            )
        prepare = getattr(module, "prepare", None)
        if prepare is not None:
            prepare(sweep.objective_args)
    except ModuleNotFoundError as missing:
        if missing.name is not None and module_name.startswith(missing.name):
            hint = "it is looked for in the folder of 'hpoctl submit' and among the packages"
        else:
            hint = f"{module_name} needs it: pip install 'hpoctl[llm]' brings the usual ones"
        raise ConfigError(f"objective: no module '{missing.name}': {hint}") from missing
    objective: Objective = function
    return objective
