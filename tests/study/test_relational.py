"""A study in a database: as exact as Optuna's own way, and its samplers see the same."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from hpoctl.errors import StudyError
from hpoctl.plan import queue
from hpoctl.study import store, translate
from hpoctl.study.connect import engine_url
from hpoctl.study.database import Database
from hpoctl.study.location import Kind, Location
from hpoctl.study.protocol import Claim, Store
from hpoctl.study.rows import Parts
from hpoctl.study.statements import Statements
from hpoctl.study.tables import VERSION, Tables, read_version
from hpoctl.sweep import Sweep
from study.claimers import claim_at_once, make_worker
from study.conftest import MakeSweep

OWNER = "/home/user/runs/a-study"
RELATIONAL = [Kind.SQLITE, Kind.POSTGRESQL, Kind.MYSQL]


@pytest.fixture(params=RELATIONAL)
def location(request: pytest.FixtureRequest, tmp_path: object) -> Location:
    """A database without any study in it, of each kind in turn."""
    from hpoctl.study.location import parse_url

    if request.param is Kind.SQLITE:
        return Location(kind=Kind.SQLITE, url=f"{tmp_path}/the study.db")
    name = "postgresql_url" if request.param is Kind.POSTGRESQL else "mariadb_url"
    return parse_url(request.getfixturevalue(name), "a test")


def submit(location: Location, sweep: Sweep) -> Store:
    return store.create(location, sweep, queue(sweep), owner=OWNER)


def claimed(study: Store, task: str = "17_3") -> Claim:
    claim = study.claim(make_worker(task))
    assert claim is not None
    return claim


def read(location: Location) -> optuna.Study:
    return optuna.load_study(study_name="a study", storage=engine_url(location))


def test_sixteen_processes_run_exactly_the_budget(
    location: Location, make_sweep: MakeSweep
) -> None:
    sweep = make_sweep(budget={"trials": 200})
    submit(location, sweep)
    by_process = claim_at_once(location, sweep, processes=16)
    assert sorted(n for numbers in by_process for n in numbers) == list(range(200))
    trials = read(location).trials
    assert [trial.value for trial in trials] == list(range(200))
    seeds = store.open_(location, sweep).records()
    assert len({record.attrs["seed"] for record in seeds}) == 200


def test_a_late_result_does_not_overwrite_and_is_kept(
    location: Location, make_sweep: MakeSweep
) -> None:
    sweep = make_sweep()
    first, second = submit(location, sweep), store.open_(location, sweep)
    lost = claimed(first, "1_1")
    assert second.return_lost(lambda worker: True) == [0]
    again = claimed(second, "1_2")
    assert again.number == lost.number
    assert again.params == lost.params
    assert (lost.attempt, again.attempt) == (1, 2)
    first.complete(lost, [1.0], {"note": "late"})
    trial = read(location).trials[0]
    assert trial.state is TrialState.RUNNING
    assert second.records()[0].attrs["late_values"] == [1.0]
    assert "note" not in trial.user_attrs
    second.complete(again, [2.0], {})
    first.fail(lost, "boom")
    trial = read(location).trials[0]
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)
    assert "error" not in trial.user_attrs


def test_a_worker_that_lost_its_trial_is_told_to_end_it(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep())
    claim = claimed(study)
    assert study.report(claim, 1.0, step=1) is False
    study.return_lost(lambda worker: True)
    assert study.report(claim, 2.0, step=2) is True
    assert read(location).trials[0].intermediate_values == {1: 1.0}


def test_a_trial_lost_twice_has_failed(location: Location, make_sweep: MakeSweep) -> None:
    study = submit(location, make_sweep())
    for _ in range(2):
        claimed(store.open_(location, make_sweep()), "9_9")
        assert study.return_lost(lambda worker: worker.task != "1_1") == [0]
    trial = read(location).trials[0]
    assert trial.state is TrialState.FAIL
    assert "9_9" in trial.user_attrs["error"]
    assert trial.datetime_complete is not None


def test_a_native_worker_may_join(location: Location, make_sweep: MakeSweep) -> None:
    study = submit(location, make_sweep(budget={"trials": 3}))
    native = read(location)
    study.complete(claimed(study), [1.0], {})
    asked = native.ask()
    asked.suggest_float("lr", 1e-5, 1e-1, log=True)
    native.tell(asked, 2.0)
    study.complete(claimed(study), [3.0], {})
    native.tell(native.ask(), 4.0)
    study.append([{}])
    assert [t.number for t in read(location).trials] == [0, 1, 2, 3, 4]
    assert [t.value for t in read(location).trials] == [1.0, 2.0, 3.0, 4.0, None]


def test_tpe_suggests_what_it_does_in_optuna_alone(
    location: Location, make_sweep: MakeSweep
) -> None:
    sweep = make_sweep(sampler={"name": "tpe", "n_startup_trials": 4}, budget={"trials": 15})
    study, native = submit(location, sweep), optuna.create_study(storage=InMemoryStorage())
    for number in range(15):
        native.sampler = translate.sampler(sweep, number)
        asked = native.ask()
        expected = {
            name: translate.suggest(asked, name, distribution)
            for name, distribution in sweep.search_space.parameters.items()
        }
        # Each claim by a new worker: what it sees is what it reads.
        worker = study if number % 2 else store.open_(location, sweep)
        claim = claimed(worker)
        assert dict(claim.params) == expected
        value = float(str(expected["lr"])) * 10 + float(str(expected["layers"]))
        worker.complete(claim, [value], {})
        native.tell(asked, value)


def test_a_study_of_the_first_version_is_brought_to_the_present_one(
    location: Location, make_sweep: MakeSweep
) -> None:
    sweep = make_sweep()
    submit(location, sweep)
    database = Database(location)
    for table in ("hpoctl_version", "hpoctl_attempts", "hpoctl_workers"):
        database.ask((f"drop table {table}", ()))
    tables = Tables(location.kind)
    database.ask(tables.drop_index("hpoctl_open"))
    database.ask(("create index hpoctl_waiting on trials (study_id, trial_id)", ()))
    study = store.open_(location, sweep)
    study.complete(claimed(study), [1.0], {})
    assert read_version(database, tables) == VERSION
    assert database.ask(tables.has_index("hpoctl_open"))
    assert not database.ask(tables.has_index("hpoctl_waiting"))
    assert read(location).trials[0].value == 1.0


def test_tables_of_a_newer_hpoctl_are_refused(location: Location, make_sweep: MakeSweep) -> None:
    sweep = make_sweep()
    submit(location, sweep)
    Database(location).ask(("update hpoctl_version set version = 99", ()))
    with pytest.raises(StudyError, match=r"version 99.*pip install -U hpoctl"):
        store.open_(location, sweep)


def test_a_claim_whose_answer_was_lost_is_found_again(
    location: Location, make_sweep: MakeSweep
) -> None:
    if location.kind is Kind.SQLITE:
        pytest.skip("an answer of SQLite cannot be lost on the way")
    study = submit(location, make_sweep())
    worker = study.sign_on(make_worker("1_1"))
    taken = study.claim(worker)
    assert taken is not None
    sql = Statements(location.kind, 1)
    rows = Database(location).run(sql.taken_by(worker.id, known=(), parts=Parts()))
    assert [row[1] for row in rows if row[0] == "trial"] == [taken.trial_id]
    known = sql.taken_by(worker.id, known=[taken.trial_id], parts=Parts())
    assert not Database(location).run(known)


def test_a_rerun_trial_is_not_pruned_by_what_its_lost_attempt_reported(
    location: Location, make_sweep: MakeSweep
) -> None:
    sweep = make_sweep(pruner={"name": "median", "n_startup_trials": 1})
    study = submit(location, sweep)
    good, lost = claimed(study, "1_1"), claimed(study, "1_2")
    for step in range(1, 6):
        study.report(good, 1.0, step)
        study.report(lost, 0.5 if step == 1 else 9.0, step)
    study.complete(good, [1.0], {})
    study.return_lost(lambda worker: True)
    worker = store.open_(location, sweep)
    again = claimed(worker, "1_3")
    assert again.number == lost.number
    assert worker.report(again, 0.5, 1) is False
    assert read(location).trials[lost.number].intermediate_values == {1: 0.5}


def test_several_that_fill_and_repeat_at_once_queue_nothing_twice(
    location: Location, make_sweep: MakeSweep
) -> None:
    study = submit(location, make_sweep(budget={"trials": 4}))
    for _ in range(4):
        study.fail(claimed(study), "boom")
    larger = make_sweep(budget={"trials": 40})

    def fill_and_repeat(_: int) -> None:
        mine = store.open_(location, larger)
        mine.fill(list(queue(larger)))
        mine.retry(range(4))

    with ThreadPoolExecutor(6) as callers:
        list(callers.map(fill_and_repeat, range(6)))
    assert (study.size(), study.retries()) == (44, 4)
    roots = [record.root for record in study.records()]
    assert {root: roots.count(root) for root in range(4)} == dict.fromkeys(range(4), 2)
