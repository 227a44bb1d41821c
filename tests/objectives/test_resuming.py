"""A run that was cut off and goes on equals one that was not, to the last digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpoctl.integrations import checkpoints
from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import models
from hpoctl.objectives.causal_lm.trainer import TrialTrainer
from hpoctl.trial import Checkpointed, Pruned

from .conftest import FakeTrial, PretrainedFolders
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


def through(
    folder: Path,
    training: Mapping[str, object],
    ends: Sequence[int] = (),
    params: Mapping[str, object] = POINT,
    **more: object,
) -> Told:
    """A trial that is asked to save itself after so many steps of each attempt, to its end."""
    folder.mkdir()
    told = Told()
    args = {**SMALL, "training": training, "save": True, **more}
    while True:
        told.attempts += 1
        at = ends[told.attempts - 1] if told.attempts <= len(ends) else None
        trial = FakeTrial(dir=folder, params=params, args=args, attempt=told.attempts, ends_at=at)
        with suppress(Checkpointed):
            told.result = causal_lm.objective(trial)
        assert not told.values.keys() & trial.values.keys(), "a step is reported twice"
        told.values |= trial.values
        told.extras |= trial.extras
        if told.result:
            told.weights = (folder / "model" / "model.safetensors").read_bytes()
            return told
        assert len(list(folder.glob("checkpoint-*"))) == 1


COSTS = {  # what is not the same twice
    *("train_seconds", "tokens_per_second", "samples_per_second", "gpu_hours"),
    *("memory_gb", "host_memory_gb"),
}


def equal(one: Told, other: Told) -> None:
    assert one.values == other.values
    assert one.extras == other.extras
    assert one.weights == other.weights
    assert one.result.keys() == other.result.keys()
    assert all(one.result[name] == other.result[name] for name in one.result if name not in COSTS)


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


@pytest.mark.parametrize("lora", [{"r": 4, "dropout": 0.1}, None])
def test_fine_tuning_goes_on_to_the_last_digit_with_an_adapter_and_in_full(
    lora: Mapping[str, object] | None, pretrained_folder: PretrainedFolders, tmp_path: Path
) -> None:
    adapter = {} if lora is None else {"lora": lora}
    params = {"training": {"learning_rate": 1e-2}, **adapter}
    model = {"pretrained": str(pretrained_folder("llama"))}
    whole = through(tmp_path / "whole", COSINE, params=params, model=model)
    cut = through(tmp_path / "cut", COSINE, [3, 6], params=params, model=model)
    assert cut.attempts == 3
    equal(cut, whole)
    assert whole.values[16] < whole.values[4]


def attempt(folder: Path, training: Mapping[str, object], number: int, **more: object) -> FakeTrial:
    """One attempt at a trial, which may end in any way."""
    args = {**SMALL, "training": training, "save": True, **more}
    return FakeTrial(dir=folder, params=POINT, args=args, attempt=number)


class Killed(BaseException):
    """Stands for a SIGKILL: nothing of ours may clean up after it."""


def killed_when_sealing(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    seal = checkpoints.seal

    def interrupted(checkpoint: Path) -> None:
        if checkpoints.step_of(checkpoint) == step:
            raise Killed
        seal(checkpoint)

    monkeypatch.setattr(checkpoints, "seal", interrupted)


def test_a_run_killed_while_it_saves_goes_on_from_the_checkpoint_before(
    whole: Mapping[str, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {**COSINE, "checkpoint_every": 3}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_when_sealing(patch, step=9)
        causal_lm.objective(attempt(tmp_path, often, 1))
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-9",
    ]
    trial = attempt(tmp_path, often, 2)
    result = causal_lm.objective(trial)
    assert list(trial.values) == [8, 12, 16]  # 8 again: it came after the checkpoint
    assert trial.values.items() <= whole["cosine"].values.items()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == whole["cosine"].weights
    assert result["train_seconds"] > 0
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_run_killed_after_its_last_step_does_not_train_again(
    whole: Mapping[str, Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {**COSINE, "checkpoint_every": 5}
    first = attempt(tmp_path, often, 1)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(models, "save", raises_killed)
        causal_lm.objective(first)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-16"]
    trial = attempt(tmp_path, often, 2)
    assert causal_lm.objective(trial)["eval_loss"] == first.values[16]
    assert not trial.values
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == whole["cosine"].weights


def raises_killed(*_: object) -> None:
    raise Killed


def test_the_best_model_is_kept_over_an_interruption(tmp_path: Path) -> None:
    # The rate rises until training is worse than before: the best step is not the last.
    training = {
        **COSINE,
        "schedule": "linear",
        "warmup_steps": 0.99,
        "learning_rate": 3.0,
        "load_best_model_at_end": True,
    }
    args = {**SMALL, "training": training, "save": True}
    seen = []
    for name, ends in (("whole", None), ("cut", 14)):
        (tmp_path / name).mkdir()
        point = {"model": POINT["model"]}
        trial = FakeTrial(dir=tmp_path / name, params=point, args=args, ends_at=ends)
        if ends:
            with pytest.raises(Checkpointed):
                causal_lm.objective(trial)
            kept = sorted(path.name for path in trial.dir.glob("checkpoint-*"))
            assert kept == ["checkpoint-14", "checkpoint-4"]
            trial = FakeTrial(dir=trial.dir, params=point, args=args, attempt=2)
        result = causal_lm.objective(trial)
        seen.append((result["eval_loss"], (trial.dir / "model/model.safetensors").read_bytes()))
        assert result["eval_loss"] < trial.values[16]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "training",
    [
        {"schedule": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0}},
        {"train_sampling_strategy": "group_by_length", "neftune_noise_alpha": 5},
        {"bf16": True, "gradient_clipping": 0.1, "eval_on_start": True},
    ],
)
def test_whatever_has_a_state_goes_on_with_it(training: Groups, tmp_path: Path) -> None:
    merged = {**COSINE, **training}
    equal(through(tmp_path / "cut", merged, [6, 5]), through(tmp_path / "whole", merged))


def test_a_trial_that_nobody_goes_on_with_leaves_no_checkpoint(tmp_path: Path) -> None:
    trial = attempt(tmp_path, {**COSINE, "checkpoint_every": 1}, 1)
    trial.prune_at = 8
    with pytest.raises(Pruned):
        causal_lm.objective(trial)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_is_kept_if_it_is_asked_for(tmp_path: Path) -> None:
    causal_lm.objective(
        attempt(tmp_path, {**COSINE, "checkpoint_every": 4}, 1, keep_checkpoint=True)
    )
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-16"]


def test_a_trial_that_begins_anew_does_not_go_on_from_what_lies_there(
    whole: Mapping[str, Told], tmp_path: Path
) -> None:
    cut = attempt(tmp_path, COSINE, 1)
    cut.ends_at = 5
    with pytest.raises(Checkpointed):
        causal_lm.objective(cut)
    again = attempt(tmp_path, COSINE, 1)
    causal_lm.objective(again)
    assert again.values == whole["cosine"].values


def test_seconds_and_tokens_are_those_of_all_attempts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = attempt(tmp_path, COSINE, 1)
    cut.ends_at = 10
    with pytest.raises(Checkpointed):
        causal_lm.objective(cut)
    trained = []
    monkeypatch.setattr(TrialTrainer, "tidy", lambda trainer: trained.append(trainer.follower))
    result = causal_lm.objective(attempt(tmp_path, COSINE, 2))
    # 16 steps: two epochs of 54 rows, and two steps of 8.
    assert trained[0].meter.read().tokens == (2 * 54 + 2 * 8) * 32
    assert result["train_seconds"] == trained[0].meter.read().train_s
