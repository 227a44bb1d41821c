from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hpoctl.objectives.causal_lm.scratch import FAMILIES, check_sizes, create_llm, read_scratch
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


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_refused_can_be_built_and_read_the_longest_text(family: str) -> None:
    """All small sizes: what is refused is refused for a reason that building has too."""
    import torch

    built = 0
    for hidden_size in (2, 3, 4, 6, 8, 12):
        for num_heads in (1, 2, 3, 4):
            for shared in (None, 1, 2, 3, 4):
                sizes = {"num_layers": 1, "hidden_size": hidden_size, "num_heads": num_heads}
                more = {} if shared is None else {"num_key_value_heads": shared}
                try:
                    found = read_scratch({"from_scratch": family, **sizes, **more}, "float32")
                except Infeasible:
                    continue
                llm = create_llm(
                    1,
                    hidden_size,
                    num_heads,
                    found.ff_dim,
                    257,
                    family=family,
                    block_size=8,
                    num_key_value_heads=found.num_key_value_heads,
                )
                ids = torch.arange(8)[None]
                assert llm(input_ids=ids, labels=ids).loss.isfinite()
                built += 1
    assert built > 10


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_heads_may_share_keys_and_values(family: str) -> None:
    kept = {}
    for shared in (None, 2, 1):
        llm = create_llm(2, 32, 4, 72, 300, family=family, num_key_value_heads=shared)
        kept[shared] = llm.get_submodule("model.layers.0.self_attn.k_proj").weight.shape
        assert llm.config.num_key_value_heads == (shared or 4)
    assert kept == {None: (32, 32), 2: (16, 32), 1: (8, 32)}


SIZES: tuple[tuple[dict[str, object], str], ...] = (
    ({"hidden_size": 30, "num_heads": 4}, "hidden_size 30 cannot be divided among 4 heads"),
    ({"from_scratch": "opt", "hidden_size": 30, "num_heads": 4}, "cannot be divided among 4"),
    ({"from_scratch": "qwen3", "hidden_size": 12, "num_heads": 4}, "qwen3 needs an even number"),
    ({"from_scratch": "llama", "num_key_value_heads": 5}, "num_heads 12 cannot share 5 keys"),
    ({"from_scratch": "llama", "num_key_value_heads": 24}, "num_heads 12 cannot share 24 keys"),
    ({"from_scratch": "gpt2", "num_key_value_heads": 4}, "gpt2 has no shared ones, leave it out"),
    ({"from_scratch": "opt", "num_key_value_heads": 1}, "opt has no shared ones"),
    ({"vocab_size": 256}, "vocab_size 256: a tokenizer has 257 tokens at least"),
)


@pytest.mark.parametrize(("sizes", "message"), SIZES)
def test_sizes_that_cannot_go_together_are_infeasible_where_they_are_searched(
    sizes: dict[str, object], message: str
) -> None:
    with pytest.raises(Infeasible, match=message):
        read_scratch(sizes, "float32")


@pytest.mark.parametrize(("sizes", "message"), SIZES)
def test_sizes_that_cannot_go_together_are_an_error_where_they_are_fixed(
    sizes: dict[str, object], message: str
) -> None:
    with pytest.raises(Infeasible, match=message):
        check_sizes(sizes, searched=("num_layers", "ff_dim"))
    check_sizes(sizes, searched=tuple(sizes))  # some of them may go together


@pytest.mark.parametrize("name", ["num_layers", "num_key_value_heads", "ff_dim", "vocab_size"])
def test_no_size_is_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"model.{name}: is 0"):
        check_sizes({"from_scratch": "llama", name: 0})
