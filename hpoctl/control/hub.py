"""`prefetch`: what a sweep's workers would ask a hub for, fetched once by the login node."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpoctl import config, objectives
from hpoctl.errors import ConfigError, HpoctlError

if TYPE_CHECKING:
    from hpoctl.control.submission import Request
    from hpoctl.objectives.causal_lm.hub import Fetched


def fetch(request: Request) -> tuple[Fetched, ...]:
    """Fetches the models and data that a sweep names, those of all trials; none is no error.

    Raises ConfigError where the objective does not say what it needs, and HpoctlError where the
    hub cannot give it.
    """
    sweep = config.load(request.sweep_file, request.overrides)
    names = objectives.hub_names(sweep)
    if names is None:
        raise ConfigError(
            f"objective: {sweep.objective or 'a command'} does not tell what it fetches; those of"
            " hpoctl.objectives do: fetch it by hand, and set HF_HUB_OFFLINE=1 in resources.setup"
        )
    from hpoctl.objectives.causal_lm import hub

    fetched = []
    for name in names:
        try:
            fetched.append(hub.fetch(name))
        except ImportError as missing:
            raise HpoctlError(
                f"{missing.name or missing} is needed: pip install 'hpoctl[llm]'"
            ) from missing
        except ValueError as wrong:
            raise HpoctlError(str(wrong)) from wrong
    return tuple(fetched)
