"""Untrained models: a family and its sizes, which mean the same in all families.

Sizes are checked without torch, so that a trial whose sizes do not fit ends at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.values import share, whole
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where the configuration of a family differs from that of others."""

    ff_dim: str  # its name for the width of the feed-forward layers
    dropout: tuple[str, ...]  # all that it has
    rotary: bool = True  # turns pairs of numbers by position, so a head needs an even number
    # What the family derives from its published model, not from the sizes that are given here.
    heads: tuple[str, ...] = ()  # one key and value for each head
    head_sizes: tuple[str, ...] = ()
    hidden_sizes: tuple[str, ...] = ()


_QWEN2 = Family(
    ff_dim="intermediate_size", dropout=("attention_dropout",), heads=("num_key_value_heads",)
)
_LLAMA = replace(_QWEN2, head_sizes=("head_dim",))
FAMILIES: Mapping[str, Family] = {
    "gpt2": Family(
        ff_dim="n_inner", dropout=("embd_pdrop", "attn_pdrop", "resid_pdrop"), rotary=False
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "opt": Family(
        ff_dim="ffn_dim",
        dropout=("dropout", "attention_dropout"),
        rotary=False,
        hidden_sizes=("word_embed_proj_dim",),
    ),
    "qwen2": _QWEN2,
    "qwen3": _LLAMA,
}
SIZES = {"num_layers": 12, "hidden_size": 768, "num_heads": 12}  # of the smallest GPT-2
KEYS = (*SIZES, "ff_dim", "vocab_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """An architecture whose sizes fit."""

    family: str
    num_layers: int
    hidden_size: int
    num_heads: int
    ff_dim: int
    vocab_size: int | None  # None: as many as the tokenizer has
    dropout: float
    dtype: str


def known_family(name: object) -> str:
    """The family of this name. Raises ValueError with the nearest."""
    if not isinstance(name, str) or name not in FAMILIES:
        close = difflib.get_close_matches(str(name), FAMILIES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(FAMILIES)}"
        raise ValueError(f"model.from_scratch: {name!r} is not known; {hint}")
    return name


def read_scratch(model: Mapping[str, object], dtype: str) -> Scratch:
    """The group `model` as an architecture, defaults filled in.

    Raises ValueError, or Infeasible where the sizes do not go together.
    """
    family = known_family(model.get("from_scratch", "gpt2"))
    num_layers, hidden_size, num_heads = (
        whole(f"model.{name}", model.get(name, size)) for name, size in SIZES.items()
    )
    if hidden_size % num_heads:
        raise Infeasible(
            f"model: hidden_size {hidden_size} cannot be divided among {num_heads} heads:"
            " let it be a multiple of num_heads"
        )
    if FAMILIES[family].rotary and hidden_size // num_heads % 2:
        raise Infeasible(
            f"model: hidden_size {hidden_size} gives each of {num_heads} heads an odd"
            f" {hidden_size // num_heads}, and {family} needs an even number"
        )
    vocab_size = model.get("vocab_size")
    return Scratch(
        family=family,
        num_layers=num_layers,
        hidden_size=hidden_size,
        num_heads=num_heads,
        ff_dim=whole("model.ff_dim", model.get("ff_dim", 4 * hidden_size)),
        vocab_size=None if vocab_size is None else whole("model.vocab_size", vocab_size),
        dropout=share("model.dropout", model.get("dropout", 0.1)),
        dtype=dtype,
    )


def create_llm(
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    ff_dim: int,
    vocab_size: int,
    *,
    family: str = "gpt2",
    block_size: int = 1024,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> PreTrainedModel:
    """An untrained model of this architecture; `block_size` is the longest text in tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    its = FAMILIES[known_family(family)]
    configure: Callable[..., PreTrainedConfig] = AutoConfig.for_model
    config = configure(
        family,
        num_hidden_layers=num_layers,
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        vocab_size=vocab_size,
        max_position_embeddings=block_size,
        bos_token_id=0,  # END, which is token 0
        eos_token_id=0,
        pad_token_id=None,  # OPT would leave the token with this id untrained
        **{its.ff_dim: ff_dim},
        **dict.fromkeys(its.dropout, dropout),
        **dict.fromkeys(its.heads, num_heads),
        **dict.fromkeys(its.head_sizes, hidden_size // num_heads),
        **dict.fromkeys(its.hidden_sizes, hidden_size),
    )
    build: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_config
    return build(config, dtype=getattr(torch, dtype))
