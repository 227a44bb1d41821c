"""What causal_lm measures of a trial, held against torch and the operating system."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import footprint, latency, measures
from hpoctl.objectives.causal_lm.measures import Latency
from hpoctl.objectives.causal_lm.text import corpus, read_source

from .conftest import FakeTrial, MakeTrial, PretrainedFolders
from .test_causal_lm import TINY

ARGS: Mapping[str, Mapping[str, object]] = {
    "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 100},
    "model": {"from_scratch": "gpt2", "num_layers": 1, "num_heads": 2, "ff_dim": 64},
    "training": {"max_steps": 4, "eval_steps": 2, "batch_size": 8, "learning_rate": 1e-2},
}
POINT: Mapping[str, Mapping[str, object]] = {"model": {"hidden_size": 32}}
NAMES = {
    *("eval_loss", "perplexity", "eval_accuracy", "tokens_per_second", "samples_per_second"),
    *("train_seconds", "gpu_hours", "memory_gb", "host_memory_gb"),
    *("parameters", "trainable_parameters", "model_mb"),
}


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(ARGS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a model that an earlier trial has saved."""
    trial = FakeTrial(
        dir=tmp_path_factory.mktemp("teacher"), params=POINT, args={**ARGS, "save": True}
    )
    causal_lm.objective(trial)
    return str(trial.dir / "model")


def test_a_trial_returns_every_metric_that_is_free(make_trial: MakeTrial) -> None:
    result = causal_lm.objective(make_trial(POINT, ARGS))
    assert set(result) == NAMES == set(measures.FREE)
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.values())
    assert 0 <= result["eval_accuracy"] < 1
    assert result["model_mb"] == 4 * result["parameters"] / 2**20  # float32
    assert result["trainable_parameters"] == result["parameters"]
    assert result["tokens_per_second"] == pytest.approx(32 * result["samples_per_second"])
    assert result["gpu_hours"] == 0 or torch.cuda.is_available()


def test_accuracy_and_perplexity_stand_beside_the_loss_of_every_evaluation(
    make_trial: MakeTrial,
) -> None:
    trial = make_trial(POINT, ARGS)
    result = causal_lm.objective(trial)
    assert trial.extras[4]["eval_accuracy"] == result["eval_accuracy"]
    assert trial.extras[2]["perplexity"] == pytest.approx(math.exp(trial.values[2]))


def test_the_first_metric_is_what_a_pruner_compares(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, ARGS, metrics=("eval_accuracy", "eval_loss"))
    result = causal_lm.objective(trial)
    assert trial.values[4] == result["eval_accuracy"]
    assert trial.extras[4]["eval_loss"] == result["eval_loss"]


def test_no_loss_is_passed_off_as_a_metric_that_is_known_at_the_end(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, ARGS, metrics=("memory_gb",))
    assert causal_lm.objective(trial)["memory_gb"] > 0
    assert not trial.values


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("kl", "'kl' is measured only where it is asked for: add 'measure: {kl: base}' to"),
        ("latency_s", "'latency_s' is measured only where .* add 'measure: {latency: {}}"),
        ("eval_los", "'eval_los' is not measured; did you mean 'eval_loss'"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused_before_training(
    metric: str, message: str, make_trial: MakeTrial
) -> None:
    trial = make_trial(POINT, ARGS, metrics=("eval_loss", metric))
    with pytest.raises(ValueError, match=message):
        causal_lm.objective(trial)
    assert not trial.values


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"kll": "base"}, "measure.kll: unknown; did you mean 'kl'"),
        ({"kl": 3}, "measure.kl: is 3, but must be 'base' or"),
        ({"latency": 3}, "latency: is 3, but must be a group"),
        ({"latency": {"batsh": 3}}, "measure.latency.batsh: unknown; did you mean 'batch'"),
        ({"latency": {"repeats": 0}}, "measure.latency.repeats: is 0, .* from 1 on"),
        ({"latency": {"prompt_length": 30}}, "30 tokens and 16 new ones .* model reads 32 at once"),
        ({"kl": "base"}, "which a model from scratch lacks"),
        ({"kl": "./nowhere"}, "measure.kl: .*/nowhere: there is no such file"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(
    measure: Mapping[str, object], message: str, make_trial: MakeTrial
) -> None:
    trial = make_trial(POINT, {**ARGS, "measure": measure})
    with pytest.raises(ValueError, match=message):
        causal_lm.objective(trial)
    assert not trial.values


def test_kl_is_that_of_the_two_models(teacher: str, make_trial: MakeTrial) -> None:
    args = {**ARGS, "measure": {"kl": teacher}, "save": True}
    trial = make_trial(POINT, args, seed=2, metrics=("eval_loss", "kl"))
    result = causal_lm.objective(trial)
    known, learnt = (
        AutoModelForCausalLM.from_pretrained(folder) for folder in (teacher, trial.dir / "model")
    )
    blocks = torch.stack(
        [row["input_ids"] for row in corpus(*read_source(ARGS["dataset"])).validation]
    )
    with torch.no_grad():
        p, q = (functional.log_softmax(llm(blocks).logits[:, :-1], -1) for llm in (known, learnt))
    expected = functional.kl_div(q, p, log_target=True, reduction="sum") / p[..., 0].numel()
    assert result["kl"] == pytest.approx(float(expected), abs=1e-5)
    assert result["kl"] > 0.001


def test_a_model_like_its_teacher_has_no_divergence(teacher: str, make_trial: MakeTrial) -> None:
    # The same seed and data lead to the same model.
    result = causal_lm.objective(make_trial(POINT, {**ARGS, "measure": {"kl": teacher}}))
    assert result["kl"] == pytest.approx(0, abs=1e-6)


def test_a_teacher_with_other_tokens_is_refused_before_training(
    teacher: str, make_trial: MakeTrial
) -> None:
    fewer = {**ARGS, "dataset": {**ARGS["dataset"], "vocab_size": 300}}
    trial = make_trial(POINT, {**fewer, "measure": {"kl": teacher}})
    with pytest.raises(ValueError, match="tells 400 tokens apart and the model 300"):
        causal_lm.objective(trial)
    assert not trial.values


def test_a_teacher_whose_tokens_mean_something_else_is_refused(
    teacher: str, make_trial: MakeTrial, tmp_path: Path
) -> None:
    document = "".join(chr(48 + (i * i) % 75) for i in range(20000))
    (tmp_path / "other.txt").write_text(document)
    other = {key: v for key, v in ARGS["dataset"].items() if key != "builtin"}
    args = {**ARGS, "dataset": {**other, "path": str(tmp_path / "other.txt")}}
    trial = make_trial(POINT, {**args, "measure": {"kl": teacher}})
    with pytest.raises(ValueError, match=r"has another tokenizer|tokens apart"):
        causal_lm.objective(trial)
    assert not trial.values


def test_a_teacher_that_reads_less_than_a_row_is_refused(
    teacher: str, make_trial: MakeTrial
) -> None:
    longer = {**ARGS, "dataset": {**ARGS["dataset"], "block_size": 64, "max_blocks": 50}}
    trial = make_trial(POINT, {**longer, "measure": {"kl": teacher}})
    with pytest.raises(ValueError, match=r"reads 32 tokens at once, .* rows of 64"):
        causal_lm.objective(trial)


def calls_of(llm: PreTrainedModel, how: Latency) -> list[tuple[int, ...]]:
    """The shape of what the model was given, at each call of a measurement."""
    shapes: list[tuple[int, ...]] = []
    hook = llm.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)),
        with_kwargs=True,
    )
    found = latency.measure(llm, [[1, 2, 3], [4, 5]], how)
    hook.remove()
    assert found["latency_s"] > 0
    assert found["latency_batch"] == how.batch
    assert found["latency_prompt_length"] == how.prompt_length
    assert found["latency_new_tokens"] == how.new_tokens
    return shapes


def test_latency_is_measured_by_runs_of_the_stated_kind() -> None:
    llm = causal_lm.create_llm(1, 16, 2, 32, 50, block_size=32)
    llm.generation_config.num_beams = 4  # a model's own habits are not what is timed
    llm.train()
    how = Latency(batch=3, prompt_length=7, new_tokens=5, warmup=1, repeats=2)
    a_run = [(3, 7), *[(3, 1)] * 4]  # the prompt at once, then a token at a time
    assert calls_of(llm, how) == 3 * a_run
    assert llm.generation_config.num_beams == 4


def test_no_latency_run_ends_early() -> None:
    llm = causal_lm.create_llm(1, 16, 2, 32, 50, block_size=32)
    with torch.no_grad():
        torch.nn.init.zeros_(next(llm.parameters()))  # all logits are 0: the guess is END, token 0
    how = Latency(batch=1, prompt_length=4, new_tokens=6, warmup=0, repeats=1)
    assert len(calls_of(llm, how)) == 6


def test_a_trial_tells_its_latency_with_its_settings(make_trial: MakeTrial) -> None:
    how = {"prompt_length": 8, "new_tokens": 4, "warmup": 0, "repeats": 1}
    trial = make_trial(POINT, {**ARGS, "measure": {"latency": how}}, metrics=("latency_s",))
    result = causal_lm.objective(trial)
    assert result["latency_s"] > 0
    assert (result["latency_batch"], result["latency_prompt_length"]) == (1, 8)


def test_the_peak_of_memory_is_the_childs_own() -> None:
    ballast = bytearray(400 << 20)  # the worker had this once
    ballast[:: os.sysconf("SC_PAGE_SIZE")] = b"x" * len(ballast[:: os.sysconf("SC_PAGE_SIZE")])
    before = footprint.peaks()["host_memory_gb"]
    del ballast

    def child(pipe: Connection) -> None:
        footprint.reset_peaks()
        first = footprint.peaks()
        own = bytearray(b"x") * (200 << 20)
        pipe.send((first, footprint.peaks(), len(own)))

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    try:
        assert ours.poll(60), "the child hangs"
        first, then, _ = ours.recv()
    finally:
        process.kill()
        process.join()
    assert first["host_memory_gb"] < before - 0.3
    assert then["host_memory_gb"] - first["host_memory_gb"] == pytest.approx(0.195, abs=0.05)
    if not torch.cuda.is_initialized():
        assert then["memory_gb"] == then["host_memory_gb"]


def test_sizes_are_those_of_the_types_that_weights_have() -> None:
    llm = causal_lm.create_llm(1, 16, 2, 32, 50, block_size=16)
    total = llm.num_parameters()
    llm.get_input_embeddings().weight.requires_grad_(False)
    llm.bfloat16()
    found = footprint.sizes(llm)
    assert found["parameters"] == total
    assert found["trainable_parameters"] == total - 50 * 16
    assert found["model_mb"] == 2 * total / 2**20


@pytest.mark.parametrize("lora", [{"lora": {"r": 4}}, {}])
def test_what_fine_tuning_has_changed_is_its_divergence_from_the_base(
    lora: dict[str, object], pretrained_folder: PretrainedFolders, make_trial: MakeTrial
) -> None:
    args = {
        **TINY,
        "model": {"pretrained": str(pretrained_folder("llama"))},
        "measure": {"kl": "base"},
        **lora,
    }
    found = [
        causal_lm.objective(make_trial({"training": {"learning_rate": rate, "max_steps": 4}}, args))
        for rate in (0.0, 1e-2)
    ]
    assert found[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert found[1]["kl"] > 1e-5
