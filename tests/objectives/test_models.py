"""Trained models as a trial trains them: in full, their first layers, and beside them by LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import pretrained
from hpoctl.trial import Infeasible

from .conftest import MakeTrial, PretrainedFolders

Groups = dict[str, object]
TRAINING = {"max_steps": 12, "eval_steps": 6, "eval_on_start": True, "batch_size": 8}


def fine_tuning(folder: Path, **model: object) -> Groups:
    return {
        "dataset": {"builtin": "pydoc", "block_size": 32, "max_blocks": 300},
        "model": {"pretrained": str(folder), **model},
        "training": {**TRAINING, "learning_rate": 3e-3},
        "save": True,
    }


def trained(args: Mapping[str, object], params: Groups, make_trial: MakeTrial) -> dict[str, float]:
    """What the objective returns; its loss fell, and what it saved can be loaded."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trial = make_trial(params, args)
    result = causal_lm.objective(trial)
    assert list(trial.values) == [0, 6, 12]
    assert trial.values[0] > trial.values[12]
    assert trial.values[0] < 5.5  # of 6.0 for a model that knows nothing
    again = AutoModelForCausalLM.from_pretrained(trial.dir / "model")
    assert not hasattr(again, "peft_config")
    assert again.num_parameters() == result["parameters"]
    tokenizer = AutoTokenizer.from_pretrained(trial.dir / "model")
    assert "An if statement." in tokenizer.decode(tokenizer.encode("An if statement."))
    # What was saved is what was measured, trained on from there.
    on = {**args, "model": {"pretrained": str(trial.dir / "model")}}
    later = make_trial({"training": {"max_steps": 1, "eval_steps": 1}}, {**on, "save": False})
    causal_lm.objective(later)
    assert later.values[0] == pytest.approx(result["eval_loss"], abs=0.02)
    return result


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_pretrained_model_is_trained_in_full(
    family: str, pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = fine_tuning(pretrained_folder(family))
    causal_lm.prepare(args)
    result = trained(args, {}, make_trial)
    assert result["trainable_parameters"] == result["parameters"]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_adapter_is_trained_and_what_is_saved_needs_none(
    family: str, pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = fine_tuning(pretrained_folder(family))
    searched: Groups = {
        "lora": {"r": 4, "alpha": 16, "dropout": 0.05, "target_modules": "all-linear"},
        "model": {"dropout": 0.05},
    }
    result = trained(args, searched, make_trial)
    assert result["trainable_parameters"] < result["parameters"] / 2


def test_first_layers_an_adapter_and_checkpoints_of_gradients_go_together(
    pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = {
        **fine_tuning(pretrained_folder("llama"), keep_layers=2),
        "lora": {"r": 4, "target_modules": "all-linear"},
    }
    causal_lm.prepare(args)
    result = trained(args, {"training": {"activation_checkpointing": True}}, make_trial)
    of_a_layer = 4 * (32 + 32) + 3 * (32 + 64)  # attention and feed-forward, in and out
    assert result["trainable_parameters"] == 2 * 4 * of_a_layer


def test_the_base_model_may_be_searched(
    pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = {**fine_tuning(pretrained_folder("gpt2")), "save": False}
    few = {"training": {"max_steps": 1}}
    sizes = []
    for family in ("gpt2", "llama"):
        base = {"model": {"pretrained": str(pretrained_folder(family))}}
        sizes.append(causal_lm.objective(make_trial({**base, **few}, args))["parameters"])
    assert sizes[0] != sizes[1]


def test_two_trials_in_one_process_begin_with_the_same_weights(
    pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = {**fine_tuning(pretrained_folder("gpt2")), "save": False}
    causal_lm.prepare(args)
    first, second = make_trial({}, args), make_trial({}, args)
    causal_lm.objective(first)
    causal_lm.objective(second)
    assert first.values == second.values


def test_a_model_from_scratch_may_have_more_tokens_than_its_tokenizer_but_not_fewer(
    make_trial: MakeTrial,
) -> None:
    args = {
        "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 50},
        "model": {"from_scratch": "llama", "num_layers": 1, "hidden_size": 16, "num_heads": 2},
        "training": {"max_steps": 1},
    }
    sizes = [
        causal_lm.objective(make_trial({"model": {"vocab_size": size}}, args))["parameters"]
        for size in (400, 448)
    ]
    assert sizes[1] - sizes[0] == 2 * 48 * 16  # tokens in and tokens out
    with pytest.raises(
        Infeasible, match=r"model.vocab_size: 399, but the tokenizer has 400 tokens"
    ):
        causal_lm.objective(make_trial({"model": {"vocab_size": 399}}, args))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"model": {"keep_layers": 4}}, "model.keep_layers: 4, but the model has 3 layers"),
        ({"model": {"num_layers": 4}}, "model.num_layers: is for a model from scratch"),
        ({"model": {"dtype": "bf16"}}, "model.dtype: 'bf16' is not known; did you mean 'bfloat16'"),
        ({"model": {"quantize": "4bit"}}, "model.quantize: 4bit "),
        ({"lora": {"target_modules": "q_proj"}}, "the model has no layer 'q_proj'"),
    ],
)
def test_a_trial_refuses_what_does_not_go_with_its_model(
    params: Groups, message: str, pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    trial = make_trial(params, fine_tuning(pretrained_folder("gpt2")))
    with pytest.raises((ValueError, Infeasible), match=message):
        causal_lm.objective(trial)
    assert not trial.values


def test_texts_longer_than_the_model_reads_are_infeasible(
    pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = fine_tuning(pretrained_folder("gpt2"))
    args["dataset"] = {"builtin": "pydoc", "block_size": 64, "max_blocks": 50}
    with pytest.raises(Infeasible, match=r"dataset.max_length: 64 tokens, but .* takes 32 at most"):
        causal_lm.objective(make_trial({}, args))


@pytest.mark.parametrize(
    ("args", "params", "message"),
    [
        ({"from_scratch": "llama"}, {"model": {"num_heads": 5}}, "cannot be divided among 5 heads"),
        ({"from_scratch": "llama"}, {"model": {"num_key_value_heads": 5}}, "cannot share 5 keys"),
        ({}, {"model": {"vocab_size": 200}}, "vocab_size 200: a tokenizer has 257 tokens"),
        ({"pretrained": ""}, {"model": {"keep_layers": 4}}, "keep_layers: 4, but the model has 3"),
        ({"pretrained": ""}, {"dataset": {"max_length": 64}}, "64 tokens, but .* takes 32 at most"),
        ({}, {"model": {"pretrained": ""}, "dataset": {"max_length": 64}}, "takes 32 at most"),
        ({"pretrained": ""}, {"lora": {"layers_to_transform": 3}}, "the model has 3 layers"),
    ],
)
def test_what_cannot_be_is_told_before_data_and_weights_are_read(
    args: Groups,
    params: dict[str, Groups],
    message: str,
    pretrained_folder: PretrainedFolders,
    make_trial: MakeTrial,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(pretrained_folder("gpt2"))
    for place in ("tokens_known", "corpus"):
        monkeypatch.setattr(causal_lm, place, lambda *_: pytest.fail("data are read"))
    monkeypatch.setattr(pretrained, "load", lambda *_: pytest.fail("weights are read"))
    model, searched = (
        {name: value or folder for name, value in group.items()}
        for group in (args, params.get("model", {}))
    )
    trial = make_trial(
        {**params, "model": searched},
        {"dataset": {"builtin": "pydoc", "block_size": 32}, "model": model},
    )
    with pytest.raises(Infeasible, match=message):
        causal_lm.objective(trial)


def test_an_untrained_model_takes_no_adapter(make_trial: MakeTrial) -> None:
    args = {"dataset": {"builtin": "pydoc"}, "lora": {"r": 8}}
    with pytest.raises(ValueError, match=r"lora: needs model.pretrained"):
        causal_lm.objective(make_trial({}, args))
