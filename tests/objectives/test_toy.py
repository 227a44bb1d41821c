from __future__ import annotations

import subprocess
import sys

import pytest

from hpoctl.objectives import toy
from hpoctl.trial import Pruned

from .conftest import MakeTrial

BOTTOM = {"training": {"learning_rate": 0.01}, "model": {"num_layers": 3}}


def test_the_bottom_of_the_bowl_is_zero(make_trial: MakeTrial) -> None:
    assert toy.objective(make_trial(BOTTOM, {})) == pytest.approx(0)


@pytest.mark.parametrize("towards", [(0.1, 0.02, 0.01), (-5.0, -0.1, 0.0, 0.001), (9, 5, 4)])
def test_the_value_falls_towards_the_bottom(
    towards: tuple[float, ...], make_trial: MakeTrial
) -> None:
    values = [toy.objective(make_trial({"x": x}, {})) for x in towards]
    assert values == sorted(values, reverse=True)


def test_a_factor_of_ten_is_about_as_far_up_as_down(make_trial: MakeTrial) -> None:
    up, down = (toy.objective(make_trial({"x": x}, {})) for x in (0.1, 0.001))
    assert up == pytest.approx(1, rel=0.05)
    assert down == pytest.approx(1, rel=0.05)


def test_words_and_switches_do_not_count(make_trial: MakeTrial) -> None:
    params = {**BOTTOM, "optimizer": "adamw", "nesterov": True}
    assert toy.objective(make_trial(params, {})) == pytest.approx(0)


def test_reports_fall_to_the_value(make_trial: MakeTrial) -> None:
    trial = make_trial({"x": 0.5}, {"steps": 4})
    value = toy.objective(trial)
    assert list(trial.values) == [1, 2, 3, 4]
    assert list(trial.values.values()) == sorted(trial.values.values(), reverse=True)
    assert trial.values[4] == value


def test_takes_the_seconds_it_is_told(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    toy.objective(make_trial(BOTTOM, {"seconds": 3}))
    toy.objective(make_trial(BOTTOM, {"seconds": 3, "steps": 2}))
    assert slept == [3, 1.5, 1.5]


def test_a_pruned_trial_ends(make_trial: MakeTrial) -> None:
    trial = make_trial(BOTTOM, {"steps": 9}, prune_at=2)
    with pytest.raises(Pruned):
        toy.objective(trial)
    assert list(trial.values) == [1, 2]


def test_fails_for_the_share_that_it_is_told(make_trial: MakeTrial) -> None:
    def fails(seed: int, fail: float | bool) -> bool:
        try:
            toy.objective(make_trial(BOTTOM, {"fail": fail}, seed=seed))
        except RuntimeError:
            return True
        return False

    assert all(fails(seed, True) for seed in range(5))
    assert not any(fails(seed, 0) for seed in range(5))
    some = [fails(seed, 0.3) for seed in range(200)]
    assert 30 < sum(some) < 90
    assert some == [fails(seed, 0.3) for seed in range(200)]


@pytest.mark.parametrize("args", [{"second": 1}, {"seconds": -1}, {"steps": "many"}])
def test_refuses_arguments_that_it_does_not_know(
    args: dict[str, object], make_trial: MakeTrial
) -> None:
    with pytest.raises(ValueError, match=r"seconds|steps"):
        toy.objective(make_trial(BOTTOM, args))


def test_needs_no_torch() -> None:
    code = "import sys, hpoctl.objectives.toy; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
