"""Generation by a trained model: what a trial measures, against loops in plain torch."""

from __future__ import annotations

import json
import math
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import pytest
import torch
from torch.nn import functional

from hpoctl.objectives import causal_lm, inference
from hpoctl.objectives.causal_lm import trained
from hpoctl.objectives.causal_lm.trained import Trained
from hpoctl.objectives.inference import generation, settings
from hpoctl.objectives.inference.generation import Case, Generated
from hpoctl.trial import Infeasible

from .conftest import FakeTrial, MakeTrial

DATASET = {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 300}
FEW = {"prompts": 6, "prompt_length": 8, "max_new_tokens": 10, "batch_size": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer that was trained for a moment."""
    args: Mapping[str, object] = {
        "dataset": DATASET,
        "model": {"num_layers": 1, "num_heads": 2, "hidden_size": 32},
        "training": {"max_steps": 30, "batch_size": 8, "learning_rate": 1e-2},
        "save": True,
    }
    trial = FakeTrial(dir=tmp_path_factory.mktemp("a trial"), params={}, args=args)
    causal_lm.prepare(args)
    causal_lm.objective(trial)
    return trial.dir / "model"


@pytest.fixture
def args(folder: Path) -> dict[str, Mapping[str, object]]:
    return {"dataset": DATASET, "model": {"pretrained": str(folder)}, "inference": FEW}


@pytest.fixture
def model(folder: Path) -> Trained:
    return trained.load("model.pretrained", str(folder))


def searched(**values: object) -> dict[str, Mapping[str, object]]:
    return {"inference": values}


class Infer(Protocol):
    """The result of a trial with these searched values."""

    def __call__(self, seed: int = 1, **values: object) -> dict[str, float]: ...


@pytest.fixture
def infer(args: Mapping[str, object], make_trial: MakeTrial) -> Infer:
    def run(seed: int = 1, **values: object) -> dict[str, float]:
        point = {"inference": values}
        return inference.objective(make_trial(point, args, seed=seed, metrics=("rouge_l",)))

    return run


def quality(result: Mapping[str, float]) -> dict[str, float]:
    """What does not depend on the clock or on memory."""
    costs = ("latency_s", "tokens_per_second", "memory_gb", "host_memory_gb")
    return {name: value for name, value in result.items() if name not in costs}


def test_a_trial_returns_what_it_promises(
    args: Mapping[str, object], make_trial: MakeTrial
) -> None:
    trial = make_trial(searched(temperature=0.7), args, metrics=("rouge_l", "latency_s"))
    result = inference.objective(trial)
    assert set(result) == set(inference.MEASURED)
    assert all(math.isfinite(value) for value in result.values())
    assert 0 < result["new_tokens"] <= 10
    assert result["latency_s"] > 0
    assert result["memory_gb"] > 0


def test_one_seed_gives_one_result_and_another_seed_another(infer: Infer) -> None:
    first, again, other = (quality(infer(seed, temperature=1.0)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def by_hand(model: Trained, case: Case, new_tokens: int) -> list[int]:
    """Greedy generation of one prompt, without padding and without a cache."""
    ids = list(case.prompt)
    for _ in range(new_tokens):
        with torch.no_grad():
            token = int(model.llm(torch.tensor([ids])).logits[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
    return ids[len(case.prompt) :]


# Of different lengths, so that a batch is padded.
CASES = [Case(prompt=range(9, 9 + length), reference=[5, 6]) for length in (3, 8, 5)]


@pytest.mark.parametrize(
    "values",
    [{}, {"temperature": 0}, {"temperature": 0.5, "top_k": 1}, {"do_sample": False, "top_p": 0.2}],
)
def test_greedy_is_the_likeliest_token_each_time(
    values: Mapping[str, object], model: Trained
) -> None:
    how = settings.read(FEW, values)
    made = generation.generate(model, CASES, how, seed=1)
    assert made.continuations == [by_hand(model, case, 10) for case in CASES]
    assert len(made.seconds) == 1


def test_a_text_ends_where_the_model_ends_it(model: Trained) -> None:
    end = by_hand(model, CASES[0], 10)[3]
    was = model.tokenizer.eos_token_id
    try:
        model.tokenizer.eos_token_id = end
        made = generation.generate(model, CASES[:1], settings.read(FEW, {}), seed=1)
        assert made.continuations == [by_hand(model, CASES[0], 10)]
        assert len(made.continuations[0]) <= 3
    finally:
        model.tokenizer.eos_token_id = was


def test_the_models_own_habits_have_no_say(model: Trained) -> None:
    model.llm.generation_config.do_sample = True
    model.llm.generation_config.repetition_penalty = 9.0
    made = generation.generate(model, CASES, settings.read(FEW, {}), seed=1)
    assert made.continuations == [by_hand(model, case, 10) for case in CASES]


def test_what_is_not_given_is_off() -> None:
    assert settings.read({}, {}).fields == {
        "do_sample": False,
        "num_beams": 1,
        "max_new_tokens": 32,
    }
    assert settings.read({"temperature": 0.5}, {"top_p": 0.9}).fields == {
        "do_sample": True,
        "temperature": 0.5,
        "top_k": 0,
        "top_p": 0.9,
        "num_beams": 1,
        "max_new_tokens": 32,
    }
    assert "length_penalty" not in settings.read({"length_penalty": 2.0}, {"num_beams": 1}).fields
    assert settings.read({"length_penalty": 2.0}, {"num_beams": 2}).fields["length_penalty"] == 2.0


def test_numbers_may_be_written_without_a_point(infer: Infer) -> None:
    whole = infer(temperature=2, repetition_penalty=2)
    assert quality(whole) == quality(infer(temperature=2.0, repetition_penalty=2.0))


def test_a_high_repetition_penalty_leaves_little_repetition(infer: Infer) -> None:
    without = infer(max_new_tokens=20)
    with_it = infer(max_new_tokens=20, repetition_penalty=5.0)
    assert with_it["repetition"] < without["repetition"]
    assert with_it["distinct_1"] > without["distinct_1"]


def test_beams_are_followed_at_once(model: Trained) -> None:
    rows: list[int] = []
    hook = model.llm.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    generation.generate(model, CASES, settings.read(FEW, {"num_beams": 4}), seed=1)
    hook.remove()
    assert rows[-1] == 4 * len(CASES)


def test_perplexity_is_that_of_the_continuations_alone(model: Trained) -> None:
    said = [[7, 8, 9], [], [3]]
    made = Generated(continuations=said, seconds=[1.0])
    losses = []
    for case, tokens in zip(CASES, said, strict=True):
        ids = [*case.prompt, *tokens]
        with torch.no_grad():
            logits = functional.log_softmax(model.llm(torch.tensor([ids])).logits[0], dim=-1)
        for position in range(len(case.prompt), len(ids)):
            losses.append(-float(logits[position - 1, ids[position]]))
    expected = math.exp(math.fsum(losses) / 4)
    for batch_size in (1, 2, 3):
        assert generation.judged(model, model, CASES, made, batch_size) == pytest.approx(expected)


def test_nothing_said_is_no_good_text(model: Trained) -> None:
    made = Generated(continuations=[[], [], []], seconds=[1.0])
    assert generation.judged(model, model, CASES, made, 2) == math.inf


def test_a_scorer_with_another_tokenizer_reads_the_text(
    model: Trained, tmp_path: Path, make_trial: MakeTrial
) -> None:
    args: Mapping[str, object] = {
        "dataset": {**DATASET, "vocab_size": 300},
        "model": {"num_layers": 1, "num_heads": 2, "hidden_size": 16},
        "training": {"max_steps": 1},
        "save": True,
    }
    trial = make_trial({}, args)
    causal_lm.objective(trial)
    scorer = trained.load("measure.perplexity", str(trial.dir / "model"))
    made = Generated(continuations=[[60, 61], [62], [63]], seconds=[1.0])
    # Hardly trained, it holds all of its 300 tokens for about as likely.
    assert generation.judged(scorer, model, CASES, made, 2) == pytest.approx(300, rel=0.3)


def test_labels_say_where_a_prompt_ends() -> None:
    how = settings.read({"prompt_length": 2, "max_new_tokens": 3, "prompts": 3}, {})
    rows: list[dict[str, list[int]]] = [
        {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, -100, 4, 5]},
        {"input_ids": [1, 2, 3, 4, 5], "labels": [-100, 2, 3, -100, -100]},
        {"input_ids": [1, 2], "labels": [-100, -100]},  # nothing follows
        {"input_ids": [1, 2, 3, 4, 5, 6, 7]},  # text: as much as is generated
        {"input_ids": [9, 9, 9]},  # one too many
    ]
    found = [(list(case.prompt), list(case.reference)) for case in generation.cases(rows, how)]
    assert found == [([1, 2, 3], [4, 5]), ([1], [2, 3]), ([1, 2], [3, 4, 5])]


def test_a_text_without_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"each needs more than inference.prompt_length \(32\)"):
        generation.cases([{"input_ids": [1, 2]}], settings.read({}, {}))


def test_more_than_the_model_can_read_is_infeasible(infer: Infer) -> None:
    with pytest.raises(Infeasible, match="that makes 38 tokens: the model reads 32 at once"):
        infer(max_new_tokens=30)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inference": {"temprature": 1}}, "inference.temprature: unknown; did you mean 'temp"),
        ({"inference": {"num_beams": 0}}, "inference.num_beams: is 0"),
        ({"inference": {"temperature": -1}}, "inference.temperature: is -1, but must be from 0 on"),
        (
            {"inference": {"top_p": 1.5}},
            "inference.top_p: is 1.5, but must be from 0 on, at most 1",
        ),
        ({"inference": {"typical_p": 0}}, "inference.typical_p: is 0, but must be above 0"),
        ({"inference": {"top_k": 2.5}}, "inference.top_k: is 2.5, but must be a whole number"),
        ({"inference": {"min_p": "0.1"}}, "inference.min_p: .* number: write 0.1, without quotes"),
        ({"inference": {"early_stopping": "no"}}, "inference.early_stopping: .* false or never"),
        ({"inference": {"do_sample": 1}}, "inference.do_sample: is 1, but must be true or false"),
        ({"model": {}}, "model.pretrained: is missing"),
        (
            {"model": {"pretrained": "./nowhere"}},
            "model.pretrained: .*/nowhere: there is no such file",
        ),
        ({"measure": {"kl": "base"}}, "measure.kl: unknown"),
        (
            {"measure": {"perplexity": "./nowhere"}},
            "measure.perplexity: .*/nowhere: there is no such file",
        ),
    ],
)
def test_prepare_refuses_what_no_trial_can_use(
    changed: Mapping[str, object], message: str, args: Mapping[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        inference.prepare({**args, **changed})


def test_a_metric_that_is_not_measured_is_refused(
    args: Mapping[str, object], make_trial: MakeTrial
) -> None:
    with pytest.raises(ValueError, match=r"add 'measure: {perplexity: self}"):
        inference.objective(make_trial({}, args, metrics=("perplexity",)))


def test_prepare_leaves_a_parent_that_can_fork(args: Mapping[str, object]) -> None:
    # In a process of its own: threads and CUDA, once there, stay.
    code = """if True:
        import json, sys, threading
        from hpoctl.objectives import inference
        assert not {"torch", "transformers", "datasets", "tokenizers"} & set(sys.modules)
        import torch
        def touched(*args): sys.exit("CUDA is touched before the fork")
        torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = touched
        inference.prepare(json.loads(sys.argv[1]))
        assert torch.get_num_threads() == 1
        assert threading.active_count() == 1, threading.enumerate()
    """
    given = json.dumps({**args, "measure": {"perplexity": "self"}})
    subprocess.run([sys.executable, "-c", code, given], check=True, timeout=120)


# OpenBLAS and Arrow start threads when they are imported, and end them at a fork; from 3.12 on
# Python warns of every thread.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_loads_nothing(
    folder: Path, args: Mapping[str, object], infer: Infer, make_trial: MakeTrial, tmp_path: Path
) -> None:
    passing = tmp_path / "gone by then"
    passing.symlink_to(folder)
    elsewhere = {**args, "model": {"pretrained": str(passing)}}
    inference.prepare(elsewhere)
    passing.unlink()

    def child(pipe: Connection) -> None:
        trial = make_trial(searched(temperature=0.5), elsewhere, metrics=("rouge_l",))
        pipe.send(quality(inference.objective(trial)))

    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    theirs.close()  # so that a child which dies is noticed at once
    try:
        assert ours.poll(60), "the child hangs"
        result = ours.recv()
    finally:
        process.kill()
        process.join()
    assert result == pytest.approx(quality(infer(temperature=0.5)))


def test_prompts_and_completions_of_a_file_are_told_apart(
    args: Mapping[str, object], model: Trained, tmp_path: Path
) -> None:
    rows = [{"ask": f"What is {n}? ", "say": "A number."} for n in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    dataset = {"path": str(path), "prompt_column": "ask", "completion_column": "say"}
    text = inference.text_of({**args, "dataset": {**dataset, "cache": False}})
    found = generation.cases(text.validation, settings.read(FEW, {}))
    assert {generation.decoded(model, case.reference) for case in found} == {"A number."}
    assert all(generation.decoded(model, case.prompt).startswith("What is") for case in found)
