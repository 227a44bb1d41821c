"""How much each parameter decides whether a trial is among the best: by Optuna's PED-ANOVA.

Of all that Optuna has for this it is what needs no library besides: fANOVA would load scikit-learn.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping

import optuna

from hpoctl.record import TrialRecord, TrialState
from hpoctl.study import translate
from hpoctl.sweep import Sweep

_FEWEST = 10  # trials, below which there is nothing to be learnt
_TOP = 5  # at least so many trials are among the best: the evaluator's own advice


def importance(sweep: Sweep, records: Iterable[TrialRecord]) -> Mapping[str, float]:
    """Each parameter's share, the most important first; they add up to 1.

    Empty while too few trials are complete, or where none stands out. With several metrics it is
    the way to their Pareto front that counts.
    """
    complete = [
        record
        for record in records
        if record.state is TrialState.COMPLETE and record.feasible
        if record.values and all(map(math.isfinite, record.values))
    ]
    if len(complete) < _FEWEST:
        return {}
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(directions=[metric.goal for metric in sweep.objectives])
        for record in complete:
            study.add_trial(_frozen(sweep, record))
        top = min(0.5, max(0.1, _TOP / len(complete)))
        judge = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=top)
        with warnings.catch_warnings(action="ignore"):
            found = optuna.importance.get_param_importances(study, evaluator=judge)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return found if sum(found.values()) > 0 else {}


def _frozen(sweep: Sweep, record: TrialRecord) -> optuna.trial.FrozenTrial:
    known = {name: v for name, v in record.params.items() if name in sweep.search_space.parameters}
    frozen = translate.template(sweep.search_space, known)
    frozen.state = optuna.trial.TrialState.COMPLETE
    frozen.values = list(record.values or ())
    frozen.datetime_start, frozen.datetime_complete = record.started, record.ended
    return frozen
