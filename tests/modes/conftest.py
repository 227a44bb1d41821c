"""A sweep in few words."""

from __future__ import annotations

from typing import Protocol

import pytest

from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep


class MakeSweep(Protocol):
    """Gives a sweep of `trials` trials; further keys as in the sweep file."""

    def __call__(self, trials: int, **keys: object) -> Sweep: ...


@pytest.fixture
def make_sweep() -> MakeSweep:
    def make(trials: int, **keys: object) -> Sweep:
        space = SearchSpace({"a": Int(low=1, high=trials)})
        known = {"study": "s", "objective": "m:f", "search_space": space}
        return Sweep.model_validate({**known, "budget": {"trials": trials}, **keys})

    return make
