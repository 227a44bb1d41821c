"""Averaged predictions: of full models and of adapters, to the token what the formula says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import ensemble
from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.text import Corpus, corpus, read_source

from .conftest import FakeTrial, PretrainedFolders

DATA = {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 60}
MEMBERS: Mapping[str, Mapping[str, object]] = {
    "full": {},
    "rank 2": {"lora": {"r": 2, "alpha": 8}},
    "rank 8": {"lora": {"r": 8, "alpha": 8}},
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folders(
    pretrained_folder: PretrainedFolders, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The models that trials have left: all weights trained, and adapters of two ranks."""
    base, left = str(pretrained_folder("llama")), {}
    for number, (name, groups) in enumerate(MEMBERS.items()):
        left[name] = tmp_path_factory.mktemp(name)
        args = {
            "dataset": DATA,
            "model": {"pretrained": base},
            "training": {"max_steps": 5, "learning_rate": 1e-2, "eval_strategy": "no"},
            "save": True,
        }
        causal_lm.objective(FakeTrial(dir=left[name], params=groups, args=args, seed=number))
    return {name: folder / "model" for name, folder in left.items()}


def together(tmp_path: Path, models: Sequence[Path], **dataset: object) -> dict[str, float]:
    """What the ensemble of these folders is found to be."""
    args = {
        "models": [str(folder) for folder in models],
        "dataset": {**DATA, **dataset},
        "model": {"pretrained": str(models[0])},
    }
    return ensemble.objective(FakeTrial(dir=tmp_path, params={}, args=args))


def held_out(folder: Path) -> Corpus:
    source, how = read_source(DATA)
    return corpus(source, how, locate(str(folder)))


def by_the_formula(models: Sequence[Path]) -> tuple[float, float]:
    """Loss and accuracy of the mean of the models' probabilities, a row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    llms = [AutoModelForCausalLM.from_pretrained(folder) for folder in models]
    losses, hits = [], []
    with torch.no_grad():
        for row in held_out(models[0]).validation:
            ids = row["input_ids"].unsqueeze(0)
            each = [torch.softmax(llm(ids).logits[0, :-1].double(), dim=-1) for llm in llms]
            mean = torch.stack(each).mean(dim=0)
            truth = ids[0, 1:]
            losses += (-mean[range(len(truth)), truth].log()).tolist()
            hits += (mean.argmax(dim=-1) == truth).tolist()
    return sum(losses) / len(losses), sum(hits) / len(hits)


@pytest.mark.parametrize(
    "names",
    [("full",), ("full", "rank 2"), ("rank 2", "rank 8"), ("full", "rank 2", "rank 8")],
    ids=" + ".join,
)
def test_loss_and_accuracy_are_those_of_the_mean_probabilities(
    names: tuple[str, ...], folders: Mapping[str, Path], tmp_path: Path
) -> None:
    models = [folders[name] for name in names]
    found = together(tmp_path, models)
    loss, accuracy = by_the_formula(models)
    assert found["eval_loss"] == pytest.approx(loss, rel=1e-6)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["eval_accuracy"] == accuracy
    for i, folder in enumerate(models):
        own_loss, own_accuracy = by_the_formula([folder])
        assert found[f"member_{i}_eval_loss"] == pytest.approx(own_loss, rel=1e-6)
        assert found[f"member_{i}_eval_accuracy"] == own_accuracy


def test_members_have_learned_different_things(folders: Mapping[str, Path], tmp_path: Path) -> None:
    found = together(tmp_path, [*folders.values()])
    own = {found[f"member_{i}_eval_loss"] for i in range(3)}
    assert len(own) == 3
    assert found["eval_loss"] < sum(own) / 3  # Jensen: the mean of logarithms is the smaller one


def test_rows_that_are_filled_up_count_for_what_is_in_them(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    alone = together(tmp_path, [folders["full"]], packing=False)
    twice = together(tmp_path, [folders["full"], folders["full"]], packing=False)
    assert twice["eval_loss"] == pytest.approx(alone["eval_loss"], rel=1e-6)
    assert twice["eval_accuracy"] == alone["eval_accuracy"]


def test_unused_places_of_a_vocabulary_take_no_part(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    wide = AutoModelForCausalLM.from_pretrained(folders["rank 2"])
    wide.resize_token_embeddings(wide.config.vocab_size + 48, mean_resizing=False)
    with torch.no_grad():  # so that none of them is ever thought of
        wide.get_output_embeddings().weight[-48:] = 0
    wide.save_pretrained(tmp_path / "wide")
    AutoTokenizer.from_pretrained(folders["rank 2"]).save_pretrained(tmp_path / "wide")
    found = together(tmp_path, [folders["full"], tmp_path / "wide"])
    other = together(tmp_path, [tmp_path / "wide", folders["full"]])
    assert found["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-6)
    assert found["member_1_eval_loss"] == pytest.approx(other["member_0_eval_loss"], rel=1e-6)


def test_a_member_with_another_tokenizer_is_refused(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(folders["full"]).save_pretrained(tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(folders["full"])
    tokenizer.add_tokens(["quokka"])
    tokenizer.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="other has another tokenizer than the data") as refused:
        together(tmp_path, [folders["full"], tmp_path / "other"])
    assert "\n" not in str(refused.value)


def test_a_member_that_cannot_read_a_row_is_refused(
    folders: Mapping[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"full.* reads 32 tokens, and a row of the data has 64"):
        together(tmp_path, [folders["full"]], block_size=64)


def test_more_members_and_more_text_take_no_more_memory_at_once(
    folders: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from hpoctl.objectives.causal_lm import averaging

    whole = together(tmp_path, [folders["full"], folders["rank 8"]])
    monkeypatch.setattr(averaging, "_BATCH", 1)  # a row at a time
    by_row = together(tmp_path, [folders["full"], folders["rank 8"]])
    assert by_row == pytest.approx(whole, rel=1e-6)
