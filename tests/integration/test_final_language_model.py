"""The final language model of a search, and an ensemble: trained, tested and kept, for real."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Hpoctl

from integration.conftest import write

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SWEEP: dict[str, object] = {
    "study": "tiny",
    "objective": "hpoctl.objectives.causal_lm",
    "objective_args": {
        "dataset": {
            "builtin": "pydoc",
            "block_size": 32,
            "vocab_size": 300,
            "max_blocks": 300,
            "test_share": 0.1,
        },
        "model": {"num_layers": 1, "num_heads": 2, "hidden_size": 32, "ff_dim": 64, "dropout": 0.0},
        "training": {"max_steps": 40, "eval_steps": 40, "batch_size": 8},
    },
    "metrics": [{"name": "eval_loss"}],
    "search_space": {
        "training": {
            "learning_rate": {"type": "log_uniform", "min": 1e-5, "max": 1e-1},
            "weight_decay": {"type": "uniform", "min": 0.0, "max": 0.2},
        },
        "model": {"hidden_size": {"type": "categorical", "values": [32, 64]}},
    },
    "sampler": {"name": "tpe", "n_startup_trials": 3},
    "budget": {"trials": 6},
    "seed": 1,
    "backend": "local",
}
GRID: dict[str, object] = {"sampler": "grid", "budget": None}


def answer(hpoctl: Hpoctl, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hpoctl(*args, "--json", timeout_s=240).stdout)
    return found


def test_the_final_model_and_the_ensemble_are_tested_on_what_the_search_has_not_seen(
    hpoctl: Hpoctl,
) -> None:
    write(hpoctl.folder / "sweep.yaml", SWEEP)
    hpoctl("run", "sweep.yaml", timeout_s=240)
    final = answer(hpoctl, "train", "tiny", "-o", "model", "--wait")
    folder = hpoctl.folder / "model"
    assert final["final"]["eval_loss"] != final["searched"]["eval_loss"]
    llm = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) <= llm.config.vocab_size
    assert "evaluate_on: test" in (folder / "README.md").read_text()
    assert final["final"]["eval_loss"] < loss_by_default(hpoctl) - 0.3
    together = answer(hpoctl, "train", "tiny", "--ensemble", "2", "-o", "both", "--wait")
    _check_ensemble(together, final, hpoctl.folder / "both")


def loss_by_default(hpoctl: Hpoctl) -> float:
    """What the same training comes to on that text with what TrainingArguments has unasked."""
    args: Any = SWEEP["objective_args"]
    unseen = {**args["dataset"], "train_on": "all", "evaluate_on": "test"}
    defaults = {
        **SWEEP,
        **GRID,
        "study": "defaults",
        "objective_args": {**args, "dataset": unseen},
        "search_space": {"training": {"learning_rate": {"type": "categorical", "values": [5e-5]}}},
    }
    write(hpoctl.folder / "defaults.yaml", defaults)
    return float(answer(hpoctl, "run", "defaults.yaml")["best"]["values"][0])


def _check_ensemble(together: Mapping[str, Any], final: Mapping[str, Any], folder: Path) -> None:
    losses = [member["loss"] for member in together["members"]]
    loss = together["final"]["eval_loss"]
    assert together["members"][0]["trial"] == final["trials"][0]
    # The same training with the same seed, evaluated by two programs of ours.
    assert losses[0] == pytest.approx(final["final"]["eval_loss"], rel=1e-5)
    # Averaging probabilities is never worse than the mean of the losses (Jensen), and two members
    # can gain a factor of two at most, where one of them is sure.
    assert min(losses) - math.log(2) < loss < sum(losses) / 2
    assert together["final"]["perplexity"] == pytest.approx(math.exp(loss))
    assert 0 < together["final"]["eval_accuracy"] < 1
    accuracies = [member["accuracy"] for member in together["members"]]
    assert accuracies[0] == pytest.approx(final["final"]["eval_accuracy"], rel=1e-5)
    for member in ("member-0", "member-1"):
        assert (folder / member / "config.json").exists()
    assert "averaged" in (folder / "README.md").read_text()


def test_trials_with_one_seed_agree_to_the_last_digit(hpoctl: Hpoctl) -> None:
    inert = {"training": {"logging_first_step": {"type": "categorical", "values": [True, False]}}}
    write(hpoctl.folder / "sweep.yaml", {**SWEEP, **GRID, "search_space": inert})
    hpoctl("run", "sweep.yaml", timeout_s=240)
    again = answer(hpoctl, "confirm", "tiny", "--seeds", "1", "--wait")
    one, other = (winner["values"] for winner in again["winners"])
    assert one == other


def test_fit_measures_a_language_model(hpoctl: Hpoctl) -> None:
    space = {"model": {"hidden_size": {"type": "categorical", "values": [32, 64]}}}
    write(hpoctl.folder / "sweep.yaml", {**SWEEP, **GRID, "search_space": space})
    fitted = answer(hpoctl, "fit", "sweep.yaml", "--steps", "1", "--max-batch", "2")
    assert [corner["name"] for corner in fitted["corners"]] == ["largest", "smallest"]
    assert [corner["state"] for corner in fitted["corners"]] == ["complete", "complete"]
    assert all(corner["memory_gb"] > 0.1 for corner in fitted["corners"])
    assert (fitted["batch_parameter"], fitted["largest_batch"]) == ("training.batch_size", 2)
    assert {Path(folder).parent.name for folder in fitted["run_dirs"]} == {"runs"}
    assert not (hpoctl.folder / "runs" / "tiny").exists()
