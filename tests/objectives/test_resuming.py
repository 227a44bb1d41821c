"""A run that was cut off and goes on equals one that was not, to the last digit."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpoctl.integrations import checkpoints
from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm.trainer import TrialTrainer
from hpoctl.trial import Checkpointed, Pruned

from .conftest import FakeTrial
from .test_causal_lm import POINT, TINY, changed

Groups = Mapping[str, Mapping[str, object]]

# 54 rows are 14 batches of 4, and 7 steps of an epoch; the last batch of an epoch is a short one.
SMALL = changed(TINY, dataset={"max_blocks": 60}, model={"dropout": 0.2})
COSINE: Mapping[str, object] = {
    "max_steps": 16,
    "eval_steps": 4,
    "batch_size": 4,
    "gradient_accumulation": 2,
    "schedule": "cosine",
    "warmup_steps": 3,
}
EPOCHS: Mapping[str, object] = {
    "num_epochs": 2,
    "eval_strategy": "epoch",
    "batch_size": 8,
    "label_smoothing": 0.1,
    "optimizer": "adafactor",
}


@dataclass
class Told:
    """What a trial gave over all its attempts."""

    values: dict[int, float] = field(default_factory=dict)
    extras: dict[int, Mapping[str, float]] = field(default_factory=dict)
    result: dict[str, float] = field(default_factory=dict)
    attempts: int = 0
    weights: bytes = b""


def through(folder: Path, training: Mapping[str, object], ends: Sequence[int] = ()) -> Told:
    """A trial that is asked to save itself after so many steps of each attempt, to its end."""
    folder.mkdir()
    told = Told()
    args = {**SMALL, "training": training, "save": True}
    while True:
        told.attempts += 1
        at = ends[told.attempts - 1] if told.attempts <= len(ends) else None
        trial = FakeTrial(dir=folder, params=POINT, args=args, attempt=told.attempts, ends_at=at)
        try:
            told.result = causal_lm.objective(trial)
        except Checkpointed:
            pass
        assert not told.values.keys() & trial.values.keys(), "a step is reported twice"
        told.values |= trial.values
        told.extras |= trial.extras
        if told.result:
            told.weights = (folder / "model" / "model.safetensors").read_bytes()
            return told
        assert len(list(folder.glob("checkpoint-*"))) == 1


def equal(one: Told, other: Told) -> None:
    assert one.values == other.values
    assert one.extras == other.extras
    assert one.weights == other.weights
    assert {**one.result, "train_seconds": 0} == {**other.result, "train_seconds": 0}


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Told]:
    """The runs that nobody cut off."""
    folder = tmp_path_factory.mktemp("whole runs")
    return {
        name: through(folder / name, training)
        for name, training in {"cosine": COSINE, "epochs": EPOCHS}.items()
    }


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("cosine", [1]),
        ("cosine", [4]),  # where it is evaluated
        ("cosine", [5]),
        ("cosine", [7]),  # the end of an epoch
        ("cosine", [8]),
        ("cosine", [15]),
        ("cosine", [3, 2, 1, 4, 1]),  # at 3, 5, 6, 10 and 11
        ("cosine", [7, 7]),  # at both ends of epochs
        ("epochs", [3]),
        ("epochs", [7]),  # the end of an epoch, whose evaluation comes later
        ("epochs", [9, 2]),
    ],
)
def test_a_run_cut_off_at_any_step_equals_one_that_was_not(
    name: str, ends: Sequence[int], whole: Mapping[str, Told], tmp_path: Path
) -> None:
    told = through(tmp_path / "cut", {"cosine": COSINE, "epochs": EPOCHS}[name], ends)
    assert told.attempts == len(ends) + 1
    equal(told, whole[name])
    assert not list((tmp_path / "cut").glob("checkpoint-*"))
