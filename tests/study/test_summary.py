"""The login node's reader, held against Optuna's own answers over every storage."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy

from hpoctl.errors import StudyError
from hpoctl.plan import queue
from hpoctl.record import Summary, TrialRecord, TrialState, WorkerRecord
from hpoctl.study import store
from hpoctl.study.connect import engine_url
from hpoctl.study.location import Kind, Location, parse_url
from hpoctl.study.store import Store
from hpoctl.study.summary import UnknownSchema, summarize
from hpoctl.sweep import Sweep
from study.conftest import MakeSweep

WORKER = WorkerRecord(task="17_3", node="n1", pid=12, gpus=2, started_at=100.25, reason="ä 'x' %s")


def submit(location: Location, sweep: Sweep) -> Store:
    return store.create(location, sweep, queue(sweep), owner="/home/user/runs/x")


def finish(study: Store, *values: float) -> None:
    for value in values:
        claim = study.claim(WORKER)
        assert claim is not None
        study.complete(claim, [value], {})


def agreed(location: Location, study: Store, name: str = "a study") -> Summary:
    """The summary, once Optuna has said the same."""
    fast, slow = summarize(location, name), study.summary()
    assert fast.counts == slow.counts
    assert sorted(fast.workers, key=repr) == sorted(slow.workers, key=repr)
    assert _facts(fast.best) == _facts(slow.best)
    return fast


def _facts(best: TrialRecord | None) -> object:
    return best and (best.number, best.values, sorted(repr(pair) for pair in best.params.items()))


class TestEveryStorage:
    def test_counts_best_and_workers(self, location: Location, make_sweep: MakeSweep) -> None:
        space = {
            "a": {"word": {"type": "categorical", "values": [None, False, "x", 2, 0.5]}},
            "n": {"type": "int", "min": 1, "max": 9, "log": True},
            "lr": {"type": "log_uniform", "min": 1e-6, "max": 1},
        }
        study = submit(location, make_sweep(search_space=space))
        study.sign_on(WORKER)
        finish(study, 3.0, 1.5, 2.0)
        pruned, failed, running = (study.claim(WORKER) for _ in range(3))
        assert pruned is not None
        assert failed is not None
        assert running is not None
        study.prune(pruned)
        study.fail(failed, "boom")
        summary = agreed(location, study)
        assert summary.counts == {
            TrialState.WAITING: 6,
            TrialState.RUNNING: 1,
            TrialState.COMPLETE: 3,
            TrialState.PRUNED: 1,
            TrialState.FAILED: 1,
        }
        assert summary.best is not None
        assert (summary.best.number, summary.best.values) == (1, (1.5,))
        assert summary.workers == (replace(WORKER, trial=5),)

    def test_a_study_that_has_not_begun(self, location: Location, make_sweep: MakeSweep) -> None:
        study = submit(location, make_sweep())
        summary = agreed(location, study)
        assert summary.counts[TrialState.WAITING] == 12
        assert summary.best is None
        assert summary.workers == ()

    @pytest.mark.parametrize("goal", ["minimize", "maximize"])
    def test_the_best_among_infinite_values(
        self, location: Location, make_sweep: MakeSweep, goal: str
    ) -> None:
        study = submit(location, make_sweep(metrics=[{"name": "loss", "goal": goal}]))
        worst, best = (math.inf, -math.inf) if goal == "minimize" else (-math.inf, math.inf)
        for value in (worst, 5.0, -5.0, best):
            finish(study, value)
            summary = agreed(location, study)
        assert summary.best is not None
        assert summary.best.values == (best,)

    def test_of_equal_values_the_earliest_is_best(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep())
        finish(study, 2.0, 1.0, 1.0, 1.0)
        best = agreed(location, study).best
        assert best is not None
        assert best.number == 1

    def test_several_metrics_have_no_single_best(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        study = submit(location, make_sweep(metrics=[{"name": "a"}, {"name": "b"}]))
        claim = study.claim(WORKER)
        assert claim is not None
        study.complete(claim, [1.0, 2.0], {})
        assert agreed(location, study).best is None

    def test_a_worker_is_what_it_last_said(self, location: Location, make_sweep: MakeSweep) -> None:
        study = submit(location, make_sweep())
        later = WorkerRecord(task="17_4", node="n2", pid=13, gpus=2, started_at=101.0)
        assert study.sign_on(later) == later
        assert study.sign_on(replace(WORKER, reason=None)).life == 1
        study.check_in(WORKER)
        second = study.sign_on(replace(later, started_at=102.0))
        assert second.life == 2
        assert agreed(location, study).workers == (WORKER, later, second)

    def test_several_studies_do_not_mix(self, location: Location, make_sweep: MakeSweep) -> None:
        studies = {}
        for name, trials in (("one", 3), ("two", 5), ("it's three %", 7)):
            study = submit(location, make_sweep(study=name, budget={"trials": trials}))
            finish(study, float(trials))
            study.sign_on(WORKER)
            studies[name] = study
        finish(studies["one"], 0.5)
        for name, study in studies.items():
            agreed(location, study, name)
        assert summarize(location, "one").counts[TrialState.WAITING] == 1
        assert summarize(location, "it's three %").counts[TrialState.WAITING] == 6

    def test_a_study_that_is_not_there_is_named(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        with pytest.raises(StudyError):
            summarize(location, "a study")
        submit(location, make_sweep())
        with pytest.raises(StudyError, match="no study 'another'"):
            summarize(location, "another")

    def test_a_deleted_study_is_gone_and_may_be_made_again(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        finish(submit(location, make_sweep(study="gone")), 1.0, 2.0)
        kept = submit(location, make_sweep(study="kept"))
        finish(kept, 2.0)
        store.delete(location, "gone", owner="/home/user/runs/x")
        agreed(location, kept, "kept")
        with pytest.raises(StudyError, match="no study 'gone'"):
            summarize(location, "gone")

        metrics = [{"name": "loss", "goal": "maximize"}]
        again = submit(location, make_sweep(study="gone", metrics=metrics))
        finish(again, 3.0, 4.0, 1.0)
        best = agreed(location, again, "gone").best
        assert best is not None
        assert best.values == (4.0,)
        agreed(location, kept, "kept")

    def test_an_unknown_schema_is_not_guessed_at(
        self, location: Location, make_sweep: MakeSweep
    ) -> None:
        if location.kind is Kind.JOURNAL:
            pytest.skip("a journal has no schema version")
        submit(location, make_sweep())
        engine = sqlalchemy.create_engine(engine_url(location))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("update alembic_version set version_num = 'v9'"))
        engine.dispose()
        with pytest.raises(UnknownSchema, match=r"schema is not v3"):
            summarize(location, "a study")


def test_a_database_without_tables_holds_no_study(database_url: str) -> None:
    with pytest.raises(StudyError, match="holds no study yet"):
        summarize(parse_url(database_url, "a test"), "a study")


def test_a_torn_last_line_of_a_journal_counts_as_not_written(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    location = Location(kind=Kind.JOURNAL, url=str(tmp_path / "study.journal"))
    study = submit(location, make_sweep())
    before = agreed(location, study)
    with location.path.open("a") as journal:
        journal.write('{"op_code": 4, "worker_id": "x", "stu')
    assert summarize(location, "a study") == before


def test_a_journal_with_torn_lines_and_lines_of_other_writers_is_read(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    location = Location(kind=Kind.JOURNAL, url=str(tmp_path / "study.journal"))
    before = agreed(location, submit(location, make_sweep()))
    lines = location.path.read_text().splitlines(keepends=True)
    torn = '{"op_code":6,"worker_id":"x","trial_id":0,"state":3,"values":[1.0],"datet'
    with location.path.open("w") as journal:
        for number, line in enumerate(lines):
            spaced = json.dumps(json.loads(line), sort_keys=True)
            before_it = ("", "   ", torn, torn + "\n")[number % 4]
            journal.write(before_it + (f"{spaced}\n" if number % 8 == 4 else line))
    assert summarize(location, "a study") == before


def test_the_reader_loads_neither_optuna_nor_sqlalchemy(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    location = Location(kind=Kind.SQLITE, url=str(tmp_path / "study.db"))
    submit(location, make_sweep())
    program = f"""
import sys
from hpoctl.study.location import Kind, Location, parse_url
from hpoctl.study.summary import summarize
for module in ("hpoctl.control", "hpoctl.study.summary"):
    __import__(module)
print(sum(summarize(Location(kind=Kind.SQLITE, url={location.url!r}), "a study").counts.values()))
print(*sorted({{"optuna", "sqlalchemy", "torch", "matplotlib", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "12\n\n", done.stderr


def test_optuna_still_makes_the_schema_that_is_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(study_name="plain", storage=url).enqueue_trial({})
    location = Location(kind=Kind.SQLITE, url=str(tmp_path / "study.db"))
    assert summarize(location, "plain").counts[TrialState.WAITING] == 1
