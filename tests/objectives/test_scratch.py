from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpoctl.objectives.causal_lm.scratch import FAMILIES, create_llm, read_scratch
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tiny(family: str, *, dropout: float = 0.1) -> PreTrainedModel:
    """Two layers, four heads of eight numbers, 72 in between, 300 tokens."""
    return create_llm(2, 32, 4, 72, 300, family=family, block_size=16, dropout=dropout)


pytestmark = pytest.mark.usefixtures("one_thread")


def embeddings(llm: PreTrainedModel) -> str:
    """The name of the tensor with a row for each token that comes in."""
    return next(
        name
        for name, weight in llm.named_parameters()
        if weight.shape == (300, 32) and "head" not in name
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_mean_the_same_in_every_family(family: str) -> None:
    llm = tiny(family, dropout=0.25)
    config = llm.config
    assert config.model_type == family
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    assert (config.vocab_size, config.max_position_embeddings) == (300, 16)
    widths = {size for weight in llm.parameters() for size in weight.shape}
    assert 72 in widths
    assert max(widths) == 300
    dropped = {name: value for name, value in config.to_dict().items() if value == 0.25}
    assert set(dropped) == set(FAMILIES[family].dropout)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_with_all_its_weights(family: str) -> None:
    import torch

    llm = tiny(family)
    ids = torch.arange(32).reshape(2, 16)  # the first token among them
    llm(input_ids=ids, labels=ids).loss.backward()
    assert [name for name, weight in llm.named_parameters() if weight.grad is None] == []
    learnt = llm.get_parameter(embeddings(llm)).grad
    assert learnt is not None
    assert all(learnt[token].abs().sum() > 0 for token in range(15))  # 15 predicts nothing


@pytest.mark.parametrize(
    ("name", "hint"), [("lama", "did you mean 'llama'"), ("T5", "known: gpt2")]
)
def test_an_unknown_family_gets_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=f"model.from_scratch: '{name}' is not known; {hint}"):
        read_scratch({"from_scratch": name}, "float32")


def test_heads_of_an_odd_size_are_infeasible_where_positions_turn_pairs() -> None:
    odd = {"hidden_size": 36, "num_heads": 4}
    assert read_scratch({"from_scratch": "gpt2", **odd}, "float32").hidden_size == 36
    with pytest.raises(Infeasible, match="llama needs an even number"):
        read_scratch({"from_scratch": "llama", **odd}, "float32")
