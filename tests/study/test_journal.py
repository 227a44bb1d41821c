"""The replay of a journal: what it says does not hang on how a line is written."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hpoctl.study import journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three studies: one that was deleted, one with a queue, one with two metrics."""
    made = tmp_path / "study.journal"
    storage = JournalStorage(JournalFileBackend(str(made)))
    optuna.create_study(study_name="gone", storage=storage).optimize(lambda trial: 1.0, n_trials=2)
    optuna.delete_study(study_name="gone", storage=storage)
    study = optuna.create_study(study_name="queue", storage=storage, direction="maximize")
    for x in (3, 1, 5, 2):
        study.enqueue_trial({"x": x})
    study.optimize(lambda trial: trial.suggest_int("x", 0, 9) + 0.5, n_trials=3)
    optuna.create_study(study_name="two", storage=storage, directions=["minimize"] * 2).optimize(
        lambda trial: (1.0, 2.0), n_trials=1
    )
    return made


def test_a_study_is_replayed_past_others(path: Path) -> None:
    found = journal.replay(path, "queue")
    assert found is not None and found.best is not None
    assert found.counts == {"COMPLETE": 3, "WAITING": 1}
    assert (found.best.number, found.best.value) == (2, 5.5)
    assert [(name, internal) for name, internal, _ in found.best.params] == [("x", 5)]
    assert journal.replay(path, "gone") is None
    two = journal.replay(path, "two")
    assert two is not None and two.best is None and two.counts == {"COMPLETE": 1}


def test_lines_that_are_written_otherwise_say_the_same(path: Path) -> None:
    before = journal.replay(path, "queue")
    logs = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(log, sort_keys=True) + "\n" for log in logs))
    assert journal.replay(path, "queue") == before
