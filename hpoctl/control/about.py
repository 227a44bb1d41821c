"""What the report's page says of a study besides its trials. Loads Optuna."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from hpoctl import failures
from hpoctl.control.opened import OpenRun
from hpoctl.record import TrialRecord
from hpoctl.report import About
from hpoctl.study.importance import importance


def about_study(opened: OpenRun, records: Sequence[TrialRecord]) -> About:
    """What there is to say of a study whose trials are `records`."""
    sweep, past = opened.sweep(), opened.store().past
    stop = past.stopped()
    return About(
        study=opened.run.study,
        facts={name: text for name, text in _facts(opened).items() if text},
        importance=importance(sweep, records),
        failures=failures.group(past.ended()),
        stopped=None if stop is None else stop.why,
        shown=sweep.shown,
        written_at=time.time(),
    )


def _facts(opened: OpenRun) -> Mapping[str, str]:
    sweep, budget = opened.sweep(), opened.sweep().budget
    given = {"trials": opened.run.trials, "GPU-hours": budget.gpu_hours, "time": budget.time}
    weighted = [m for m in sweep.metrics if m.weight is not None]
    return {
        "budget": ", ".join(f"{what} {name}" for name, what in given.items() if what is not None),
        "weighted": " + ".join(f"{m.weight:g} x {m.name} ({m.goal})" for m in weighted),
        "constraints": "; ".join(constraint.in_words for constraint in sweep.constraints),
        "sampler": sweep.sampler.name,
        "pruner": sweep.pruner.name,
        "mode": f"{opened.run.mode}, on {opened.run.backend}",
        "storage": str(opened.location),
        "run directory": str(opened.run_dir.path),
    }
