"""The models that a trial may train: from which values, and how each is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.values import check_names, share, whole
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

_SIZES = {"num_layers": 12, "hidden_size": 768, "num_heads": 12}  # of the smallest GPT-2
_MODEL = ("from_scratch", "pretrained", *_SIZES, "ff_dim", "dropout")


def build(model: Mapping[str, object], *, vocab_size: int, block_size: int) -> GPT2LMHeadModel:
    """The model of a trial, from `model` as `check` lets it pass."""
    dropout = share("model.dropout", model.get("dropout", 0.1))
    return create_llm(**sizes(model), vocab_size=vocab_size, block_size=block_size, dropout=dropout)


def create_llm(
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    ff_dim: int,
    vocab_size: int,
    *,
    block_size: int = 1024,
    dropout: float = 0.1,
) -> GPT2LMHeadModel:
    """An untrained GPT-2 of this architecture; `block_size` is the longest text in tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=num_layers,
        n_embd=hidden_size,
        n_head=num_heads,
        n_inner=ff_dim,
        vocab_size=vocab_size,
        n_positions=block_size,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        bos_token_id=0,  # END, which is token 0
        eos_token_id=0,
    )
    llm = GPT2LMHeadModel(config)
    llm.loss_type = "ForCausalLM"  # transformers 5.23 guesses it from the class, and misses GPT-2
    return llm


def family(model: Mapping[str, object]) -> Mapping[str, object]:
    """`model` as given, if it can be built. Raises ValueError."""
    check_names(model, _MODEL, "model.")
    if "pretrained" in model:
        raise ValueError("model.pretrained: fine-tuning is not built yet: use from_scratch: gpt2")
    if (family := model.get("from_scratch", "gpt2")) != "gpt2":
        raise ValueError(f"model.from_scratch: {family!r} is not known; known: gpt2")
    return model


def sizes(model: Mapping[str, object]) -> dict[str, int]:
    """The sizes of an architecture, as `create_llm` takes them.

    Raises ValueError, or Infeasible where they do not go together.
    """
    found = {name: whole(f"model.{name}", model.get(name, size)) for name, size in _SIZES.items()}
    hidden_size, num_heads = found["hidden_size"], found["num_heads"]
    if hidden_size % num_heads:
        raise Infeasible(
            f"model: hidden_size {hidden_size} cannot be divided among {num_heads} heads:"
            " let it be a multiple of num_heads"
        )
    return {**found, "ff_dim": whole("model.ff_dim", model.get("ff_dim", 4 * hidden_size))}
