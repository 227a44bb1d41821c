"""One conformance suite for the store, over every storage; Optuna itself reads what was written."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hpoctl.errors import ConfigError, StudyError
from hpoctl.plan import queue
from hpoctl.space import Value
from hpoctl.study import store
from hpoctl.study.connect import engine_options, engine_url
from hpoctl.study.location import Kind, Location
from hpoctl.study.store import Claim, Store
from hpoctl.sweep import Sweep
from hpoctl.trial import derive_seed
from study.claimers import claim_at_once, make_worker
from study.conftest import MakeSweep

OWNER = "/home/user/runs/a-study"
WORKER = make_worker()


def submit(location: Location, sweep: Sweep) -> Store:
    return store.create(location, sweep, queue(sweep), owner=OWNER)


def claimed(study: Store) -> Claim:
    claim = study.claim(WORKER)
    assert claim is not None
    return claim


def read_by_optuna(location: Location, name: str = "a study") -> optuna.Study:
    if location.kind is Kind.JOURNAL:
        journal = JournalStorage(JournalFileBackend(location.url))
        return optuna.load_study(study_name=name, storage=journal)
    storage = RDBStorage(
        engine_url(location),
        engine_kwargs=engine_options(location),
        skip_compatibility_check=True,
        skip_table_creation=True,
    )
    return optuna.load_study(study_name=name, storage=storage)


class TestEveryStorage:
    def test_the_whole_budget_waits_in_order(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep()
        submit(location, sweep)
        trials = read_by_optuna(location).trials
        assert [trial.number for trial in trials] == list(range(12))
        assert {trial.state for trial in trials} == {TrialState.WAITING}
        assert [trial.params for trial in trials] == list(queue(sweep))

    def test_a_second_create_queues_nothing_more(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep()
        claimed(submit(location, sweep))
        submit(location, sweep)
        trials = read_by_optuna(location).trials
        assert [trial.params for trial in trials] == list(queue(sweep))
        assert [trial.state for trial in trials].count(TrialState.WAITING) == 11

    def test_a_create_that_broke_off_goes_on(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep()
        store.create(location, sweep, list(queue(sweep))[:5], owner=OWNER)
        submit(location, sweep)
        assert [trial.params for trial in read_by_optuna(location).trials] == list(queue(sweep))

    def test_eight_processes_claim_sixty_trials_each_once(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep(budget={"trials": 60})
        submit(location, sweep)
        by_process = claim_at_once(location, sweep, processes=8)
        assert sorted(number for numbers in by_process for number in numbers) == list(range(60))
        trials = read_by_optuna(location).trials
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 60
        assert [trial.value for trial in trials] == list(range(60))
        assert store.open_(location, sweep).claim(WORKER) is None

    def test_queued_points_come_out_unchanged(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep(
            sampler="grid",
            budget=None,
            search_space={
                "a": {
                    "group": {"type": "categorical", "values": [None, True, "1e-6", 3, 0.5]},
                    "step": {"type": "uniform", "min": 0.1, "max": 0.3, "step": 0.1},
                },
                "b": {"type": "int", "min": 2, "max": 5, "step": 3},
            },
        )
        study = submit(location, sweep)
        expected = list(queue(sweep))
        given = [claimed(study).params for _ in expected]
        assert [_typed(params) for params in given] == [_typed(params) for params in expected]
        assert len(expected) == 30
        assert study.claim(WORKER) is None

    def test_distributions_read_as_they_were_written(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        space = {
            "log": {"type": "log_uniform", "min": 1e-6, "max": 1e-1},
            "uniform": {"type": "uniform", "min": -1, "max": 1},
            "step": {"type": "uniform", "min": 0, "max": 1, "step": 0.25},
            "int": {"type": "int", "min": 1, "max": 9, "step": 2},
            "log int": {"type": "int", "min": 1, "max": 1024, "log": True},
            "word": {"type": "categorical", "values": ["a", None, False, 2, 0.1]},
        }
        space["log_int"] = space.pop("log int")
        study = submit(location, make_sweep(search_space=space))
        claimed(study)
        waiting, running = (
            next(t for t in read_by_optuna(location).trials if t.state is state)
            for state in (TrialState.WAITING, TrialState.RUNNING)
        )
        expected = {
            "log": FloatDistribution(1e-6, 1e-1, log=True),
            "uniform": FloatDistribution(-1, 1),
            "step": FloatDistribution(0, 1, step=0.25),
            "int": IntDistribution(1, 9, step=2),
            "log_int": IntDistribution(1, 1024, log=True),
            "word": CategoricalDistribution(["a", None, False, 2, 0.1]),
        }
        assert waiting.distributions == running.distributions == expected

    def test_the_sampler_fills_empty_slots_each_differently(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep(sampler={"name": "tpe", "n_startup_trials": 3})
        study = submit(location, sweep)
        given = []
        for _ in range(12):
            claim = claimed(study)
            given.append(dict(claim.params))
            study.complete(claim, [float(len(given))], {})
        assert len({json.dumps(params) for params in given}) == 12
        assert all(
            params[name] in distribution
            for params in given
            for name, distribution in sweep.search_space.parameters.items()
        )
        assert [trial.params for trial in read_by_optuna(location).trials] == given

    def test_a_trial_is_sampled_alike_whoever_claims_it(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweeps = [make_sweep(study=name, sampler="tpe") for name in ("one", "two")]
        for sweep in sweeps:
            submit(location, sweep)
        alone = store.open_(location, sweeps[0])
        first = [claimed(alone).params for _ in range(4)]
        second = [claimed(store.open_(location, sweeps[1])).params for _ in range(4)]
        assert first == second

    def test_a_complete_trial_keeps_values_reports_and_attributes(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep(seed=7))
        claim = claimed(study)
        assert study.report(claim, 3.0, step=1) is False
        assert study.report(claim, math.inf, step=2) is False
        study.complete(claim, [2.5], {"perplexity": 12.25})
        trial = read_by_optuna(location).trials[0]
        assert (trial.state, trial.values) == (TrialState.COMPLETE, [2.5])
        assert trial.intermediate_values == {1: 3.0, 2: math.inf}
        assert trial.user_attrs["perplexity"] == 12.25
        kept = {"task": "17_3", "node": "n1", "gpus": 2, "seed": derive_seed(7, 0), "attempt": 1}
        assert study.records()[0].attrs.items() >= {**kept, "perplexity": 12.25}.items()
        assert trial.datetime_start is not None
        assert trial.duration is not None
        assert 0 <= trial.duration.total_seconds() < 60

    def test_times_are_now(self, location: Location, make_sweep: MakeSweep) -> None:
        before = datetime.now(UTC).replace(microsecond=0)
        study = submit(location, make_sweep())
        study.complete(claimed(study), [1.0], {})
        record = study.records()[0]
        assert record.started is not None
        assert record.ended is not None
        assert record.duration_s is not None
        # MariaDB keeps whole seconds.
        assert before.timestamp() - 1 <= record.started.timestamp()
        assert record.ended.timestamp() <= datetime.now(UTC).timestamp() + 1
        assert record.started.utcoffset() == record.ended.utcoffset() == timedelta(0)

    def test_a_pruned_trial_has_its_last_report(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep())
        claim = claimed(study)
        study.report(claim, 4.0, step=1)
        study.report(claim, 3.5, step=2)
        study.prune(claim)
        trial = read_by_optuna(location).trials[0]
        assert (trial.state, trial.value) == (TrialState.PRUNED, 3.5)

    def test_a_trial_pruned_before_any_report_is_pruned(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep())
        study.prune(claimed(study))
        assert read_by_optuna(location).trials[0].state is TrialState.PRUNED

    def test_a_failed_trial_keeps_its_error(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep())
        study.fail(claimed(study), "ValueError: ü \N{SNOWMAN} \0 'quoted' %s")
        trial = read_by_optuna(location).trials[0]
        assert (trial.state, trial.values) == (TrialState.FAIL, None)
        assert trial.user_attrs["error"] == "ValueError: ü \N{SNOWMAN} \0 'quoted' %s"

    def test_of_a_long_error_the_end_is_kept(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep())
        for letter in ("x", "\N{PILE OF POO}"):  # as JSON, 12 bytes
            study.fail(claimed(study), letter * 100_000 + "the end")
        kept = [trial.user_attrs["error"] for trial in read_by_optuna(location).trials[:2]]
        assert kept[0].endswith("xthe end")
        assert kept[1].endswith("\N{PILE OF POO}the end")

    def test_nan_is_a_failure(self, location: Location, make_sweep: MakeSweep) -> None:
        study = submit(location, make_sweep())
        study.complete(claimed(study), [math.nan], {})
        trial = read_by_optuna(location).trials[0]
        assert trial.state is TrialState.FAIL
        assert "NaN" in trial.user_attrs["error"]

    def test_a_value_comes_back_exactly(self, location: Location, make_sweep: MakeSweep) -> None:
        values = [math.inf, -math.inf, 1e300, -1e-300, 0.1 + 0.2]
        study = submit(location, make_sweep(budget={"trials": len(values)}))
        for value in values:
            study.complete(claimed(study), [value], {})
        assert [trial.value for trial in read_by_optuna(location).trials] == values

    def test_several_metrics_come_back_in_order(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        metrics = [{"name": "loss"}, {"name": "accuracy", "goal": "maximize"}]
        study = submit(location, make_sweep(metrics=metrics))
        claim = claimed(study)
        assert study.report(claim, 5.0, step=1) is False
        study.complete(claim, [0.5, 0.9], {})
        found = read_by_optuna(location)
        assert found.trials[0].values == [0.5, 0.9]
        assert found.metric_names == ["loss", "accuracy"]
        assert [str(direction.name) for direction in found.directions] == ["MINIMIZE", "MAXIMIZE"]

    def test_a_pruner_ends_the_worse_trial(self, location: Location, make_sweep: MakeSweep) -> None:
        pruner = {"name": "median", "n_startup_trials": 1}
        study = submit(location, make_sweep(pruner=pruner))
        good, bad = claimed(study), claimed(study)
        study.report(good, 1.0, step=1)
        study.complete(good, [1.0], {})
        assert study.report(bad, 2.0, step=1) is True

    def test_the_name_of_another_owner_is_refused(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep()
        submit(location, sweep)
        with pytest.raises(StudyError, match=r"(?s)'a study'.*made by /home/user/runs/a-study"):
            store.create(location, sweep, queue(sweep), owner="/home/other/runs/a-study")
        assert len(read_by_optuna(location).trials) == 12

    def test_the_name_of_another_program_is_refused(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep()
        submit(location, make_sweep(study="elsewhere"))  # makes the tables
        storage = read_by_optuna(location, "elsewhere")._storage
        optuna.create_study(study_name="a study", storage=storage).enqueue_trial({})
        with pytest.raises(StudyError, match="another program"):
            submit(location, sweep)

    def test_only_the_owner_deletes(self, location: Location, make_sweep: MakeSweep) -> None:
        sweep = make_sweep()
        submit(location, sweep)
        store.delete(location, "a study", owner="/home/other/runs/a-study")
        assert len(read_by_optuna(location).trials) == 12
        store.delete(location, "a study", owner=OWNER)
        with pytest.raises(StudyError, match="was it deleted"):
            store.open_(location, sweep)
        submit(location, sweep)
        assert len(read_by_optuna(location).trials) == 12

    def test_a_study_that_is_not_there_is_named(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        with pytest.raises(StudyError):
            store.open_(location, make_sweep())
        submit(location, make_sweep())
        with pytest.raises(StudyError, match="was it deleted"):
            store.open_(location, make_sweep(study="another"))

    def test_a_failed_trial_is_repeated_as_a_new_one(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        sweep = make_sweep(budget={"trials": 2})
        study = submit(location, sweep)
        for _ in range(2):
            study.fail(claimed(study), "boom")
        assert study.retry([0]) == [2]
        again = claimed(study)
        assert (again.number, again.root, again.attempt) == (2, 0, 2)
        assert again.params == study.records()[0].params
        study.complete(again, [1.0], {})
        record = study.records()[2]
        assert (record.attrs["retry_of"], record.attrs["attempt"]) == (0, 2)
        assert record.attrs["seed"] == study.records()[0].attrs["seed"]
        assert (study.size(), study.retries()) == (3, 1)
        submit(location, sweep)  # the budget counts no retries
        assert study.size() == 3

    def test_a_trial_that_was_repeated_is_left_out(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep(budget={"trials": 2}))
        for _ in range(2):
            study.fail(claimed(study), "boom")
        assert study.retry([0]) == [2]
        assert study.retry([0, 1]) == [3]
        assert study.retry([0, 1]) == []
        study.fail(claimed(study), "again")
        assert study.retry([2]) == [4]
        assert [record.root for record in study.records()] == [0, 1, 0, 1, 0]
        assert (study.size(), study.retries()) == (5, 3)

    def test_a_larger_queue_is_filled_up_whatever_was_repeated(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep(budget={"trials": 2}))
        study.fail(claimed(study), "boom")
        study.retry([0])
        larger = list(queue(make_sweep(budget={"trials": 5})))
        assert study.fill(larger) == [3, 4, 5]
        assert study.fill(larger) == []
        points = [trial.params for trial in read_by_optuna(location).trials]
        assert [*points[:2], *points[3:]] == larger

    @pytest.mark.parametrize(("number", "message"), [(0, "is waiting"), (99, "no trial 99")])
    def test_only_a_failed_trial_is_repeated(
        self, location: Location, make_sweep: MakeSweep, number: int, message: str
    ) -> None:
        study = submit(location, make_sweep())
        with pytest.raises(StudyError, match=message):
            study.retry([number])
        assert study.size() == 12

    def test_drain_is_kept_in_the_study(self, location: Location, make_sweep: MakeSweep) -> None:
        study = submit(location, make_sweep())
        assert study.drained_at() == 0.0
        study.drain(12.5)
        assert store.open_(location, make_sweep()).drained_at() == 12.5


def test_a_submission_killed_between_two_lines_of_the_journal_goes_on(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    journal = tmp_path / "study.journal"
    location, sweep = Location(kind=Kind.JOURNAL, url=str(journal)), make_sweep()
    submit(location, sweep)
    lines = journal.read_text().splitlines(keepends=True)
    created = [i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    journal.write_text("".join(lines[: created[5]]))
    assert len(read_by_optuna(location).trials) == 5
    submit(location, sweep)
    assert [trial.params for trial in read_by_optuna(location).trials] == list(queue(sweep))


def _typed(params: object) -> str:
    """The parameters as text, in which 1, 1.0 and True differ."""
    return repr(params)


@pytest.mark.parametrize("choices", [[True, 1], [0, "x", False]])
def test_values_that_optuna_takes_for_one_are_refused(
    make_sweep: MakeSweep, choices: list[Value]
) -> None:
    with pytest.raises(ConfigError, match="stands twice"):
        make_sweep(search_space={"x": {"type": "categorical", "values": choices}})
