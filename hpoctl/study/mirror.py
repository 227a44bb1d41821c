"""What samplers and pruners see of a study in a database: a copy of its trials in memory.

It is an Optuna storage that reads nothing by itself: rows are put in, and what a sampler or a
pruner writes is taken out, so that both cost one round trip however often Optuna asks.
"""

from __future__ import annotations

import copy
import json
import math
from collections import deque
from collections.abc import Container, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

Param = tuple[str, float, str]
Row = Sequence[Any]
_INFINITE: dict[str, float] = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}
_REMEMBERED = 200  # finished trials that are not read again where rows are read twice


class Mirror(BaseStorage):
    """One study of known directions; trials by id."""

    def __init__(self, name: str, directions: Sequence[str]) -> None:
        self._name = name
        self._directions = [StudyDirection[direction.upper()] for direction in directions]
        self._trials: dict[int, FrozenTrial] = {}
        self._in_order: list[FrozenTrial] | None = None
        self._own: set[int] = set()
        self.open: set[int] = set()
        self.finished: deque[int] = deque(maxlen=_REMEMBERED)
        self.new_params: list[Param] = []
        self.new_attrs: dict[str, object] = {}

    def put(self, rows: Iterable[Row], *, own: bool = False) -> list[int]:
        """Takes trials in as rows tell them; gives their ids. Ours are not overwritten."""
        trials = [trial for trial in frozen(rows) if own or trial._trial_id not in self._own]
        for trial in trials:
            self._set(trial)
            if own:
                self._own.add(trial._trial_id)
            elif trial.state.is_finished():
                self._close(trial._trial_id)
            else:
                self.open.add(trial._trial_id)
        return [trial._trial_id for trial in trials]

    def end(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
        """A trial of ours has ended."""
        self._own.discard(trial_id)
        self._close(trial_id)
        self._change(trial_id, state=state, values=list(values) if values else None)

    def has(self, trial_id: int) -> bool:
        """Whether a trial is known here."""
        return trial_id in self._trials

    def forget_steps(self, trial_id: int, after: int) -> bool:
        """Removes reports of a trial that are behind a step; whether there were any."""
        steps = self._trials[trial_id].intermediate_values
        kept = {step: value for step, value in steps.items() if step <= after}
        if len(kept) < len(steps):
            self._change(trial_id, intermediate_values=kept)
        return len(kept) < len(steps)

    def drop(self, trial_id: int) -> None:
        """Forgets a trial."""
        self._own.discard(trial_id)
        self.open.discard(trial_id)
        self._trials.pop(trial_id, None)
        self._in_order = None

    def _close(self, trial_id: int) -> None:
        self.open.discard(trial_id)
        self.finished.append(trial_id)

    def _set(self, trial: FrozenTrial) -> None:
        self._trials[trial._trial_id] = trial
        self._in_order = None

    def _change(self, trial_id: int, **changes: object) -> None:
        """A changed copy, as whoever was given the trial before must not see it change."""
        trial = copy.copy(self._trials[trial_id])
        for name, value in changes.items():
            setattr(trial, name, value)
        self._set(trial)

    # What Optuna asks of a storage

    def get_study_id_from_name(self, study_name: str) -> int:
        return 0

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return {}

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Not kept: a sampler would remember here what another worker's finds out anew."""

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trials[trial_id]

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if self._in_order is None:
            self._in_order = sorted(self._trials.values(), key=lambda trial: trial.number)
        found = [t for t in self._in_order if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        trial = self._trials[trial_id]
        value = distribution.to_external_repr(param_value_internal)
        self._change(
            trial_id,
            params={**trial.params, param_name: value},
            _distributions={**trial.distributions, param_name: distribution},
        )
        text = distribution_to_json(distribution)
        self.new_params.append((param_name, float(param_value_internal), text))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        steps = {**self._trials[trial_id].intermediate_values, step: intermediate_value}
        self._change(trial_id, intermediate_values=steps)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        attrs = {**self._trials[trial_id].system_attrs, key: value}
        self._change(trial_id, _system_attrs=attrs)
        self.new_attrs[key] = value

    # What a storage must have, but no sampler and no pruner calls

    def _never_asked(self) -> AssertionError:
        return AssertionError("a mirror is written by RelationalStore only")

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        raise self._never_asked()

    def delete_study(self, study_id: int) -> None:
        raise self._never_asked()

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        raise self._never_asked()

    def get_all_studies(self) -> list[Any]:
        raise self._never_asked()

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise self._never_asked()

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        raise self._never_asked()

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        raise self._never_asked()


def frozen(rows: Iterable[Row]) -> list[FrozenTrial]:
    """Optuna's trials from rows as `statements` has them; without times and user attributes."""
    heads: dict[int, tuple[int, str]] = {}
    parts: dict[tuple[int, str], list[Row]] = {}
    for kind, trial_id, at, number, word, text in rows:
        if kind == "trial":
            heads[trial_id] = (at, word)
        else:
            parts.setdefault((trial_id, kind), []).append((at, number, word, text))
    return [_frozen(trial_id, *head, parts) for trial_id, head in heads.items()]


def _frozen(
    trial_id: int, number: int, state: str, parts: Mapping[tuple[int, str], Sequence[Row]]
) -> FrozenTrial:
    params, distributions = {}, {}
    for _, internal, name, text in sorted(parts.get((trial_id, "param"), ()), key=_at):
        distributions[name] = _distribution(text)
        params[name] = distributions[name].to_external_repr(internal)
    values = sorted(parts.get((trial_id, "value"), ()), key=_at)
    steps = sorted(parts.get((trial_id, "step"), ()), key=_at)
    return FrozenTrial(
        number=number,
        state=TrialState[state],
        value=None,
        values=[_number(value, kind) for _, value, kind, _ in values] or None,
        datetime_start=None,
        datetime_complete=None,
        params=params,
        distributions=distributions,
        user_attrs={},
        system_attrs={key: json.loads(text) for *_, key, text in parts.get((trial_id, "attr"), ())},
        intermediate_values={at: _number(value, kind) for at, value, kind, _ in steps},
        trial_id=trial_id,
    )


def _at(row: Row) -> int:
    return int(row[0])


def _number(stored: float | None, kind: str) -> float:
    return _INFINITE[kind] if stored is None else stored


@lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
