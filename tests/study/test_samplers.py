"""Samplers and pruners over every storage: what they learn, and that no worker matters."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from hpoctl.plan import queue
from hpoctl.space import Params
from hpoctl.study import store, translate
from hpoctl.study.connect import engine_url
from hpoctl.study.location import Kind, Location
from hpoctl.study.store import Claim, Store
from hpoctl.sweep import Sweep
from study.claimers import make_worker
from study.conftest import MakeSweep

SAMPLERS: dict[str, dict[str, object]] = {
    "tpe": {"name": "tpe", "n_startup_trials": 5},
    "gp": {"name": "gp", "n_startup_trials": 5},
    "cmaes": {"name": "cmaes", "popsize": 5},
    "nsga2": {"name": "nsga2", "population_size": 6},
}
NUMBERS = {
    "lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1},
    "layers": {"type": "int", "min": 1, "max": 64},
}
ADAPTERS = {
    **NUMBERS,
    "method": {"type": "categorical", "values": ["full", "lora"]},
    "size": {"type": "categorical", "values": [64, 96, 128]},
    "heads": {"type": "categorical", "values": [3, 4, 8, 16, 32], "divides": "size"},
    "lora": {
        "when": {"method": "lora"},
        "r": {"type": "int", "min": 1, "max": 64, "log": True},
        "drop": {"type": "uniform", "min": 0, "max": 0.5},
    },
}


def submit(location: Location, sweep: Sweep) -> Store:
    return store.create(location, sweep, queue(sweep), owner="/a/run")


def claimed(study: Store) -> Claim:
    claim = study.claim(make_worker())
    assert claim is not None
    return claim


def bowl(params: Params) -> float:
    """0 at a learning rate of 1e-3 and 40 layers."""
    lr, layers = float(str(params["lr"])), int(str(params["layers"]))
    return (math.log10(lr) + 3) ** 2 + ((layers - 40) / 16) ** 2


def work_off(open_study: Callable[[], Store], metrics: int = 1) -> list[tuple[Params, float]]:
    """Runs every trial, each in a study that is opened for it; the points and their values."""
    done = []
    while (claim := (study := open_study()).claim(make_worker())) is not None:
        value = bowl(claim.params)
        study.complete(claim, [value, 1 / (1 + value)][:metrics], {})
        done.append((claim.params, value))
    return done


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_learns(make_sweep: MakeSweep, tmp_path: object, name: str) -> None:
    """Better than random on average of its last ten, and exactly the budget."""
    location = Location(kind=Kind.SQLITE, url=f"{tmp_path}/a study")
    trials = 80 if name == "nsga2" else 25

    def run(sampler: object) -> list[float]:
        sweep = make_sweep(
            study=str(sampler), sampler=sampler, search_space=NUMBERS, budget={"trials": trials}
        )
        study = submit(location, sweep)
        values = [value for _, value in work_off(lambda: study)]
        assert len(values) == trials
        return values

    learned, drawn = run(SAMPLERS[name]), run("random")
    assert sum(learned[-10:]) < 0.7 * sum(drawn[-10:])


@pytest.mark.parametrize("name", ["gp", "cmaes", "nsga2", "qmc"])
def test_a_point_does_not_depend_on_who_claims_it(
    location: Location, make_sweep: MakeSweep, name: str
) -> None:
    """One worker that remembers everything, and one a trial that reads all there is."""
    sweeps = [
        make_sweep(study=study, sampler=SAMPLERS.get(name, name), budget={"trials": 14})
        for study in ("one", "two")
    ]
    kept = submit(location, sweeps[0])
    submit(location, sweeps[1])
    alone = work_off(lambda: kept)
    assert work_off(lambda: store.open_(location, sweeps[1])) == alone
    assert len({tuple(params.items()) for params, _ in alone}) > 10  # nsga2 may repeat a parent


@pytest.mark.parametrize("name", ["tpe", "gp", "nsga2"])
def test_a_sampler_learns_from_several_metrics(
    location: Location, make_sweep: MakeSweep, name: str
) -> None:
    metrics = [{"name": "loss"}, {"name": "speed", "goal": "maximize"}]
    sweep = make_sweep(sampler=SAMPLERS[name], metrics=metrics, budget={"trials": 9})
    submit(location, sweep)
    assert len(work_off(lambda: store.open_(location, sweep), metrics=2)) == 9


@pytest.mark.parametrize("name", [*SAMPLERS, "random", "qmc"])
def test_a_trial_has_the_parameters_that_are_there_and_no_others(
    location: Location, make_sweep: MakeSweep, name: str
) -> None:
    sweep = make_sweep(
        sampler=SAMPLERS.get(name, name), search_space=ADAPTERS, budget={"trials": 12}
    )
    study = submit(location, sweep)
    points = [params for params, _ in work_off(lambda: study)]
    for point in points:
        assert ("lora.r" in point) == ("lora.drop" in point) == (point["method"] == "lora")
        assert int(str(point["size"])) % int(str(point["heads"])) == 0
        assert sweep.search_space.whole(point) == point
    assert {point["method"] for point in points} == {"full", "lora"}
    assert [record.params for record in study.records()] == points


@pytest.mark.parametrize("name", [*SAMPLERS, "random", "qmc"])
def test_points_to_start_with_come_first_and_are_filled_up(
    location: Location, make_sweep: MakeSweep, name: str
) -> None:
    lr = {**NUMBERS["lr"], "prior": 1e-3}
    start = [{"method": "lora", "lora": {"r": 8}}, {"layers": 40, "size": 96, "heads": 3}]
    sweep = make_sweep(
        sampler=SAMPLERS.get(name, name),
        search_space={**ADAPTERS, "lr": lr},
        start=start,
        budget={"trials": 8},
    )
    submit(location, sweep)
    first, second, third, *rest = (
        params for params, _ in work_off(lambda: store.open_(location, sweep))
    )
    assert first["lr"] == 1e-3
    assert second["lora.r"] == 8
    assert (third["layers"], third["heads"]) == (40, 3)
    for point in (first, second, third, *rest):
        assert list(sweep.search_space.whole(point) or ()) == list(point)
    assert len(rest) == 5


@pytest.mark.parametrize("kind", [Kind.POSTGRESQL, Kind.SQLITE, Kind.JOURNAL])
@pytest.mark.parametrize("name", ["gp", "cmaes", "nsga2"])
def test_several_workers_run_exactly_the_budget(
    request: pytest.FixtureRequest, make_sweep: MakeSweep, tmp_path: object, kind: Kind, name: str
) -> None:
    if kind is Kind.POSTGRESQL:
        from hpoctl.study.location import parse_url

        location = parse_url(request.getfixturevalue("postgresql_url"), "a test")
    else:
        location = Location(kind=kind, url=f"{tmp_path}/a study")
    trials = 12 if name == "gp" else 32
    sweep = make_sweep(sampler=SAMPLERS[name], search_space=ADAPTERS, budget={"trials": trials})
    study = submit(location, sweep)
    with ProcessPoolExecutor(4, mp_context=get_context("forkserver")) as pool:
        workers = [pool.submit(_work_off_alone, location, sweep, f"1_{i}") for i in range(4)]
        numbers = sorted(number for worker in workers for number in worker.result(120))
    assert numbers == list(range(trials))
    points = [tuple(record.params.items()) for record in study.records()]
    assert (
        len(set(points)) > 0.75 * trials
    )  # those claimed at once know the same, but their seeds differ


def _work_off_alone(location: Location, sweep: Sweep, task: str) -> list[int]:
    study, numbers = store.open_(location, sweep), []
    while (claim := study.claim(make_worker(task))) is not None:
        numbers.append(claim.number)
        study.complete(claim, [bowl(claim.params)], {})
    return numbers


@pytest.mark.parametrize("name", ["gp", "cmaes"])
def test_a_database_shows_a_sampler_what_optuna_shows_it(
    make_sweep: MakeSweep, tmp_path: object, name: str
) -> None:
    location = Location(kind=Kind.SQLITE, url=f"{tmp_path}/a study")
    sweep = make_sweep(sampler=SAMPLERS[name], budget={"trials": 16})
    submit(location, sweep)
    native = optuna.create_study(study_name="a study", storage=InMemoryStorage())
    expected = []
    for _ in range(16):
        asked = native.ask()
        params = translate.sample(native, asked._trial_id, sweep)
        native.tell(asked, bowl(params))
        expected.append(params)
    assert [params for params, _ in work_off(lambda: store.open_(location, sweep))] == expected


PRUNERS: dict[str, dict[str, object]] = {
    "asha": {"name": "asha", "reduction_factor": 2},
    "median": {"name": "median", "n_startup_trials": 2},
    "percentile": {"name": "percentile", "percentile": 30.0, "n_startup_trials": 2},
    "hyperband": {"name": "hyperband", "max_resource": 9, "reduction_factor": 2},
    "threshold": {"name": "threshold", "upper": 14.0},
    "patient": {"name": "patient", "patience": 1},
    "patient median": {
        "name": "patient",
        "patience": 1,
        "wrapped": {"name": "median", "n_startup_trials": 2},
    },
    "patient asha": {"name": "patient", "patience": 1, "wrapped": "asha"},
}


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruner_decides_as_it_does_in_optuna_alone(
    location: Location, make_sweep: MakeSweep, name: str
) -> None:
    sweep = make_sweep(pruner=PRUNERS[name], budget={"trials": 16})
    study = submit(location, sweep)
    native = optuna.create_study(
        study_name="a study", storage=InMemoryStorage(), pruner=translate.pruner(sweep)
    )
    decisions, expected = [], []
    for number in range(16):
        worker = study if number % 3 else store.open_(location, sweep)
        claim, asked = claimed(worker), native.ask()
        for step in range(1, 10):
            value = ((number * 7) % 16) + (10 / step if number % 4 else step / 2)
            asked.report(value, step)
            decisions.append(worker.report(claim, value, step))
            expected.append(asked.should_prune())
            if decisions[-1]:
                break
        if decisions[-1]:
            worker.prune(claim)
            native.tell(asked, state=TrialState.PRUNED)
        else:
            worker.complete(claim, [value], {})
            native.tell(asked, value)
        assert decisions == expected
    assert set(decisions) == {True, False}
    if location.kind is not Kind.JOURNAL:  # whose rows are our own SQL's
        read = optuna.load_study(study_name="a study", storage=engine_url(location))
        assert kept(read) == kept(native)


def kept(study: optuna.Study) -> list[tuple[object, ...]]:
    """What a study holds of each trial that a pruner may look at."""
    return [
        (t.state, t.value, t.intermediate_values, json.dumps(t.system_attrs)) for t in study.trials
    ]


def test_a_study_with_conditions_reads_in_optuna_like_any_other(
    make_sweep: MakeSweep, tmp_path: object
) -> None:
    location = Location(kind=Kind.SQLITE, url=f"{tmp_path}/a study")
    sweep = make_sweep(sampler="tpe", search_space=ADAPTERS, budget={"trials": 12})
    study = submit(location, sweep)
    points = [params for params, _ in work_off(lambda: study)]
    read = optuna.load_study(study_name="a study", storage=engine_url(location))
    assert [trial.params for trial in read.trials] == points
    assert read.best_value == min(bowl(point) for point in points)
