from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

import pytest

from hpoctl.objectives import causal_lm
from hpoctl.trial import Infeasible, Pruned

from .conftest import MakeTrial

TINY: Mapping[str, Mapping[str, object]] = {
    "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 300},
    "model": {"from_scratch": "gpt2", "num_layers": 1, "num_heads": 2, "ff_dim": 64},
    "training": {"max_steps": 20, "eval_steps": 5, "batch_size": 8},
}
POINT: Mapping[str, Mapping[str, object]] = {
    "model": {"hidden_size": 32},
    "training": {"learning_rate": 1e-2},
}


def changed(
    groups: Mapping[str, Mapping[str, object]], **values: Mapping[str, object]
) -> dict[str, Mapping[str, object]]:
    """The groups with some of their values replaced."""
    return {**groups, **{name: {**groups.get(name, {}), **new} for name, new in values.items()}}


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(TINY)


def test_the_loss_falls_and_every_evaluation_is_reported(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, TINY)
    result = causal_lm.objective(trial)
    assert list(trial.values) == [5, 10, 15, 20]
    assert trial.values[5] > trial.values[20] + 0.1
    assert result["eval_loss"] == trial.values[20]
    assert result["perplexity"] == pytest.approx(math.exp(result["eval_loss"]))
    assert result["train_seconds"] > 0
    assert all(0 < extra["train_loss"] < 10 for extra in trial.extras.values())


def test_parameters_are_those_of_the_architecture(make_trial: MakeTrial) -> None:
    result = causal_lm.objective(make_trial(POINT, TINY))
    embeddings = (400 + 32) * 32  # tokens and positions; the output shares the tokens'
    attention = 4 * 32 * 32 + 4 * 32
    feed_forward = 2 * 32 * 64 + 64 + 32
    norms = 3 * 2 * 32
    assert result["parameters"] == embeddings + attention + feed_forward + norms


def test_one_seed_gives_one_result_and_another_seed_another(make_trial: MakeTrial) -> None:
    first, again, other = (make_trial(POINT, TINY, seed=seed) for seed in (7, 7, 8))
    for trial in (first, again, other):
        causal_lm.objective(trial)
    assert first.values == again.values
    assert first.values.keys() == other.values.keys()
    assert all(first.values[step] != other.values[step] for step in first.values)


def test_prepare_leaves_a_parent_that_can_fork() -> None:
    # In a process of its own: threads and CUDA, once there, stay.
    code = """if True:
        import json, sys, threading
        from hpoctl.objectives import causal_lm
        assert not {"torch", "transformers", "datasets", "tokenizers"} & set(sys.modules)
        import torch
        def touched(*args): sys.exit("CUDA is touched before the fork")
        torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = touched
        causal_lm.prepare(json.loads(sys.argv[1]))
        assert torch.get_num_threads() == 1
        assert threading.active_count() == 1, threading.enumerate()
    """
    subprocess.run([sys.executable, "-c", code, json.dumps(TINY)], check=True, timeout=120)


# OpenBLAS and Arrow start threads when they are imported, and end them at a fork; from 3.12 on
# Python warns of every thread.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_trains_as_the_parent_would(make_trial: MakeTrial) -> None:
    def child(pipe: Connection) -> None:
        trial = make_trial(POINT, TINY, cpus=2)
        pipe.send((causal_lm.objective(trial), trial.values))

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    try:
        assert ours.poll(60), "the child hangs"
        result, values = ours.recv()
    finally:
        process.kill()
        process.join()
    here = make_trial(POINT, TINY)
    causal_lm.objective(here)
    assert result["eval_loss"] == values[20]
    assert values == pytest.approx(here.values, abs=1e-3)  # two threads sum in another order


def test_a_pruned_trial_ends_at_once(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, TINY, prune_at=10)
    with pytest.raises(Pruned, match="step 10 of 20"):
        causal_lm.objective(trial)
    assert list(trial.values) == [5, 10]


def test_a_trial_that_is_paid_for_is_not_pruned(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, TINY, prune_at=20)
    assert causal_lm.objective(trial)["eval_loss"] == trial.values[20]


def test_training_that_diverges_fails_and_says_so(make_trial: MakeTrial) -> None:
    wild = changed(POINT, training={"learning_rate": 1e30, "gradient_clipping": 0})
    with pytest.raises(FloatingPointError, match="eval_loss is nan at step 5"):
        causal_lm.objective(make_trial(wild, TINY))


def test_a_searched_value_wins_over_a_fixed_one(make_trial: MakeTrial) -> None:
    args = changed(TINY, training={"max_steps": 4})
    few = changed(POINT, training={"max_steps": 2, "per_device_train_batch_size": 2})
    trial = make_trial(few, args)
    causal_lm.objective(trial)
    assert list(trial.values) == [2]


def test_without_eval_steps_there_are_ten_evaluations(make_trial: MakeTrial) -> None:
    training = {name: TINY["training"][name] for name in ("max_steps", "batch_size")}
    trial = make_trial(POINT, {**TINY, "training": training})
    causal_lm.objective(trial)
    assert list(trial.values) == list(range(2, 21, 2))


def test_epochs_are_evaluated_where_asked(make_trial: MakeTrial) -> None:
    training = {"num_epochs": 2, "batch_size": 54, "eval_strategy": "epoch", "warmup_ratio": 0.1}
    trial = make_trial(POINT, {**TINY, "training": training})
    causal_lm.objective(trial)
    assert list(trial.values) == [5, 10]  # 270 blocks are five batches
    assert all("train_loss" in extra for extra in trial.extras.values())


def test_no_strategy_still_gives_a_value(make_trial: MakeTrial) -> None:
    args = changed(TINY, training={"eval_strategy": "no", "max_steps": 2})
    trial = make_trial(POINT, args)
    assert causal_lm.objective(trial)["eval_loss"] == trial.values[2]


def test_nothing_is_left_unless_it_is_asked_for(make_trial: MakeTrial) -> None:
    trial = make_trial(changed(POINT, training={"max_steps": 2}), TINY)
    causal_lm.objective(trial)
    assert list(trial.dir.iterdir()) == []


def test_a_saved_model_can_be_loaded_with_its_tokenizer(make_trial: MakeTrial) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    few = changed(POINT, training={"max_steps": 2})
    trial = make_trial(few, {**TINY, "save": True})
    result = causal_lm.objective(trial)
    model = AutoModelForCausalLM.from_pretrained(trial.dir / "model", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(trial.dir / "model", local_files_only=True)
    assert model.num_parameters() == result["parameters"]
    assert tokenizer.decode(tokenizer("An if statement.")["input_ids"]) == "An if statement."


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("training", {"lerning_rate": 1}, "training.lerning_rate: unknown; did you mean 'learning"),
        ("training", {"batchsize": 1}, "training.batchsize: unknown; did you mean 'batch_size'"),
        ("training", {"xyzzy": 1}, "training.xyzzy: unknown; see TrainingArguments"),
        ("training", {"seed": 1}, "training.seed: is always the trial's seed"),
        ("training", {"per_device_train_batch_size": 8}, "is given twice"),
        ("training", {"warmup_ratio": 3}, "training.warmup_ratio: is 3, but must be a share"),
        ("model", {"num_layer": 1}, "model.num_layer: unknown; did you mean 'num_layers'"),
        ("model", {"from_scratch": "llama"}, "'llama' is not known; known: gpt2"),
        ("model", {"pretrained": "gpt2"}, "fine-tuning is not built yet"),
        ("dataset", {"blocksize": 64}, "dataset.blocksize: unknown; did you mean 'block_size'"),
        ("dataset", {"builtin": "wikitext"}, "'wikitext' is not known; known: pydoc"),
        ("dataset", {"path": "text.txt"}, "give one of 'path: file.jsonl'"),
        ("dataset", {"vocab_size": 100}, "dataset.vocab_size: is 100, .* from 257 on"),
        ("dataset", {"block_size": True}, "dataset.block_size: is True"),
        ("dataset", {"validation_share": 1}, "dataset.validation_share: is 1, .* below 1"),
        ("datset", {}, "datset: unknown; did you mean 'dataset'"),
    ],
)
def test_prepare_refuses_what_no_trial_can_use(
    group: str, values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        causal_lm.prepare(changed(TINY, **{group: values}))


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("training", {"lerning_rate": 1}, "training.lerning_rate: unknown"),
        ("model", {"num_heads": 3}, "hidden_size 32 cannot be divided among 3 heads"),
        ("model", {"num_layers": 0}, "model.num_layers: is 0, .* from 1 on"),
        ("model", {"ff_dim": 1.5}, "model.ff_dim: is 1.5"),
        ("model", {"dropout": 1.0}, "model.dropout: is 1.0"),
        ("lora", {"r": 8}, "lora: unknown; known: model, training, dataset"),
        ("dataset", {"path": "a.txt"}, "dataset.path: cannot be searched; can be: max_length"),
        ("dataset", {"sample_share": 0}, "dataset.sample_share: is 0"),
    ],
)
def test_a_trial_refuses_a_point_before_training(
    group: str, values: dict[str, object], message: str, make_trial: MakeTrial
) -> None:
    trial = make_trial(changed(POINT, **{group: values}), TINY)
    with pytest.raises((ValueError, Infeasible), match=message):
        causal_lm.objective(trial)
    assert not trial.values


def test_a_group_must_be_a_group(make_trial: MakeTrial) -> None:
    with pytest.raises(ValueError, match="training: is 3, but must be a group"):
        causal_lm.objective(make_trial({"training": 3}, TINY))
