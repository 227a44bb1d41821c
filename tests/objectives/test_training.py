"""Training arguments are checked before a model is built, and act; rungs; loss and its scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import arguments, models, training
from hpoctl.objectives.causal_lm.text import Corpus, corpus, read_source
from hpoctl.objectives.causal_lm.trainer import TrialTrainer
from hpoctl.trial import Checkpointed, Pruned

from .conftest import FakeTrial, MakeTrial
from .test_causal_lm import POINT, TINY, changed


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(TINY)


def text() -> Corpus:
    return corpus(*read_source(TINY["dataset"]))


def trainer(folder: Path, **given: object) -> TrialTrainer:
    """A Trainer of a model without dropout; the same weights each time."""
    trial = FakeTrial(dir=folder, params={}, args={})
    made = arguments.training_arguments(arguments.fields({"batch_size": 8, **given}, {}), trial, 1)
    torch.manual_seed(0)
    llm = causal_lm.create_llm(1, 32, 2, 64, 400, block_size=32, dropout=0.0)
    return training.create_trainer(llm, text(), made, trial)


# names and values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rate": "fast"}, "training.learning_rate: is 'fast', but must be a number"),
        ({"learning_rate": True}, "training.learning_rate: is True, but must be a number"),
        ({"learning_rate": None}, "training.learning_rate: is empty: give a value, or leave it"),
        ({"learning_rate": -1}, "training.learning_rate: is -1, but must be from 0 on"),
        ({"batch_size": 8.5}, "training.batch_size: is 8.5, but must be a whole number"),
        ({"batch_size": 0}, "training.batch_size: is 0, but must be from 1 on"),
        ({"bf16": "yes"}, "training.bf16: is 'yes', but must be true or false"),
        ({"label_smoothing": 2}, "training.label_smoothing: is 2, but must be from 0 to 1"),
        ({"optimizer": "adamw_troch"}, "training.optimizer: 'adamw_troch' .* 'adamw_torch'"),
        ({"schedule": "cosin"}, "training.schedule: 'cosin' is not known; did you mean 'cosine'"),
        ({"eval_strategy": "epochs"}, "training.eval_strategy: 'epochs' .* did you mean 'epoch'"),
        ({"lr_scheduler_kwargs": 3}, "training.lr_scheduler_kwargs: is 3, but must be a word or "),
        ({"save_total_limit": 3}, "training.save_total_limit: is always one checkpoint"),
        ({"output_dir": "x"}, "training.output_dir: is always the trial's folder"),
        ({"rungs": [5, 5]}, r"training.rungs: is \[5, 5\], but must be growing steps"),
        ({"rungs": [1.5]}, "training.rungs: is 1.5"),
        ({"rungs": []}, "training.rungs: .* must be growing steps"),
        ({"rungs": [5, 9], "steps": 9}, "training.max_steps: leave it out: the last of training.r"),
    ],
)
def test_what_no_training_can_use_is_refused_before_the_fork(
    values: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        arguments.fields(values, {})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fp16": True}, "training.fp16: needs a GPU, and there is none: try bf16"),
        ({"logging_steps": 1.5}, "training.logging_steps: .* must be an integer"),
        ({"bf16": True, "fp16_full_eval": True}, "training.fp16_full_eval: needs a GPU"),
        ({"optimizer": "adamw_8bit"}, "training.optim: 'adamw_8bit': .*bitsandbytes"),
        (
            {"schedule": "cosine_with_min_lr"},
            "training.lr_scheduler_kwargs: 'cosine_with_min_lr': .*min_lr",
        ),
        (
            {"schedule": "cosine", "lr_scheduler_kwargs": {"cycles": 2}},
            "training.lr_scheduler_kwargs: 'cosine': .*cycles",
        ),
    ],
)
def test_what_this_machine_cannot_use_is_refused_before_a_model_is_built(
    values: Mapping[str, object],
    message: str,
    make_trial: MakeTrial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "build", lambda *_, **__: pytest.fail("a model is built"))
    point = changed(POINT, training=values)
    with pytest.raises(ValueError, match=message):
        causal_lm.objective(make_trial(point, TINY))


def test_every_field_of_training_arguments_may_be_given_by_its_default(tmp_path: Path) -> None:
    for name, field in arguments._fields().items():
        if name not in arguments._SET_HERE and isinstance(field.default, str | int | float):
            assert arguments.fields({name: field.default}, {}) == {name: field.default}


def test_every_short_name_stands_for_a_field() -> None:
    assert set(arguments.ALIASES.values()) <= arguments._fields().keys()
    assert set(arguments._RANGES) <= arguments._fields().keys()


def test_a_whole_number_may_come_with_a_point() -> None:
    found = arguments.fields({}, {"batch_size": 8.0})
    assert found == {"per_device_train_batch_size": 8}
    assert isinstance(found["per_device_train_batch_size"], int)


@pytest.mark.parametrize(
    "optimizer", ["adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "rmsprop", "adagrad"]
)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")
def test_optimizers_train(optimizer: str, tmp_path: Path) -> None:
    training.run(trainer(tmp_path, optimizer=optimizer, steps=1, eval_strategy="no"))


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.854, 0.5, 0.146]),
        ("constant_with_warmup", [0, 0.5, 1, 1]),
    ],
)
def test_schedules_run_over_all_steps(schedule: str, rates: list[float], tmp_path: Path) -> None:
    warmup = 2 if "warmup" in schedule else 0
    made = trainer(
        tmp_path, schedule=schedule, lr=1.0, steps=4, logging_steps=1, optimizer="sgd",
        warmup_steps=warmup, max_grad_norm=1e-6,
    )  # fmt: skip
    training.run(made)
    seen = [log["learning_rate"] for log in made.state.log_history if "learning_rate" in log]
    assert seen == pytest.approx(rates, abs=1e-3)


# what acts


def first_gradient(made: TrialTrainer, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The gradient of the first step, before it is clipped."""
    seen: list[torch.Tensor] = []

    def keep(self: TrialTrainer, model: torch.nn.Module) -> torch.Tensor:
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        seen.append(torch.cat(grads).clone())
        return torch.tensor(1.0)

    monkeypatch.setattr(TrialTrainer, "_clip_grad_norm", keep)
    made.train()
    return seen[0]


def test_accumulated_batches_give_the_gradient_of_one_large_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = trainer(tmp_path, batch_size=8, steps=1, eval_strategy="no")
    four = trainer(tmp_path, batch_size=2, gradient_accumulation=4, steps=1, eval_strategy="no")
    large = first_gradient(one, monkeypatch)
    assert torch.allclose(first_gradient(four, monkeypatch), large, atol=1e-6)
    assert large.norm() > 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_acts_on_training_and_not_on_what_is_reported(
    smoothing: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, steps=1, label_smoothing=smoothing, eval_strategy="no")
    row = text().train[0]["input_ids"][None]
    inputs = {"input_ids": row, "labels": row.clone()}
    assert isinstance(made.model, torch.nn.Module)
    logits = made.model(input_ids=row).logits[:, :-1].flatten(0, 1)
    plain = torch.nn.functional.cross_entropy(logits, row[0, 1:])
    smooth = torch.nn.functional.cross_entropy(logits, row[0, 1:], label_smoothing=smoothing)
    made.model.train()
    trained_by = made.compute_loss(made.model, dict(inputs))
    assert isinstance(trained_by, torch.Tensor)
    assert trained_by.item() == pytest.approx(smooth.item())
    sums = made.prediction_step(made.model, dict(inputs), prediction_loss_only=False)[1]
    assert float(sums[0, 0]) / len(row[0, 1:]) == pytest.approx(plain.item())
    assert (smooth - plain).abs() > 0 or not smoothing


def test_bf16_trains_on_a_cpu(make_trial: MakeTrial) -> None:
    trial = make_trial(changed(POINT, training={"bf16": True}), TINY)
    causal_lm.objective(trial)
    assert trial.values[5] > trial.values[20] + 0.1


# rungs


RUNGS = changed(
    {"dataset": TINY["dataset"], "model": TINY["model"]}, training={"rungs": [3, 7, 12]}
)


def test_one_run_is_evaluated_at_its_rungs(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, RUNGS)
    result = causal_lm.objective(trial)
    assert list(trial.values) == [3, 7, 12]
    assert result["eval_loss"] == trial.values[12]
    assert all("train_loss" in extra for extra in trial.extras.values())


def test_a_run_up_to_a_rung_is_that_of_the_whole_schedule(make_trial: MakeTrial) -> None:
    """What the docs say of the horizon: steps are those of a run to the last rung."""
    once = make_trial(POINT, changed(RUNGS, training={"rungs": [12]}))
    causal_lm.objective(once)
    rungs = make_trial(POINT, RUNGS)
    causal_lm.objective(rungs)
    assert rungs.values[12] == once.values[12]


def test_a_trial_is_pruned_at_a_rung(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, RUNGS, prune_at=7)
    with pytest.raises(Pruned, match="step 7 of 12"):
        causal_lm.objective(trial)
    assert list(trial.values) == [3, 7]
    assert not list(trial.dir.iterdir())


def test_a_trial_goes_on_to_its_next_rung(make_trial: MakeTrial) -> None:
    whole = make_trial(POINT, RUNGS)
    causal_lm.objective(whole)
    cut = make_trial(POINT, RUNGS)
    cut.ends_at = 7
    with pytest.raises(Checkpointed):
        causal_lm.objective(cut)
    again = make_trial(POINT, RUNGS)
    again.attempt = 2
    causal_lm.objective(again)
    assert {**cut.values, **again.values} == whole.values
    assert list(again.values) == [12]


def test_a_searched_field_is_one_of_training_arguments(tmp_path: Path) -> None:
    made = arguments.training_arguments(
        arguments.fields({"lr": 1e-3}, {"learning_rate": 1e-2, "weight_decay": 0.1}),
        FakeTrial(dir=tmp_path, params={}, args={}),
        1,
    )
    assert isinstance(made, TrainingArguments)
    assert (made.learning_rate, made.weight_decay) == (1e-2, 0.1)
