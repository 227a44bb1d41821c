"""Untrained models: a family and its sizes, which mean the same in all families.

Sizes are checked without torch, so that a trial whose sizes do not fit ends at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
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
    heads: tuple[str, ...] = ()  # keys and values, which heads may share
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
KEYS = (*SIZES, "num_key_value_heads", "ff_dim", "vocab_size")
_LEAST_VOCABULARY = 257  # every byte, and the end: no tokenizer of a text has fewer tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """An architecture whose sizes fit."""

    family: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_key_value_heads: int
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
    check_sizes(model)
    sizes = _sizes(model)
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    return Scratch(
        family=known_family(model.get("from_scratch", "gpt2")),
        num_layers=sizes["num_layers"],
        hidden_size=hidden_size,
        num_heads=num_heads,
        num_key_value_heads=sizes.get("num_key_value_heads", num_heads),
        ff_dim=sizes.get("ff_dim", 4 * hidden_size),
        vocab_size=sizes.get("vocab_size"),
        dropout=share("model.dropout", model.get("dropout", 0.1)),
        dtype=dtype,
    )


def check_sizes(model: Mapping[str, object], searched: Collection[str] = ()) -> None:
    """Raises Infeasible where sizes cannot go together, whatever the `searched` ones are.

    Raises ValueError for one that is no size at all.
    """
    family, sizes = known_family(model.get("from_scratch", "gpt2")), _sizes(model)
    known = {"from_scratch", *sizes} - {*searched}
    for needs, rule in _RULES:
        if needs <= known and (wrong := rule(family, sizes)) is not None:
            raise Infeasible(f"model: {wrong}")


def _sizes(model: Mapping[str, object]) -> dict[str, int]:
    """All that are given or have a default of their own."""
    given = {name: model[name] for name in KEYS if model.get(name) is not None}
    return {name: whole(f"model.{name}", value) for name, value in {**SIZES, **given}.items()}


def _heads_divide(family: str, sizes: Mapping[str, int]) -> str | None:
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    if not hidden_size % num_heads:
        return None
    return (
        f"hidden_size {hidden_size} cannot be divided among {num_heads} heads: let it be a"
        " multiple of num_heads"
    )


def _heads_are_even(family: str, sizes: Mapping[str, int]) -> str | None:
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    if not FAMILIES[family].rotary or not hidden_size // num_heads % 2:
        return None
    return (
        f"hidden_size {hidden_size} gives each of {num_heads} heads an odd"
        f" {hidden_size // num_heads}, and {family} needs an even number"
    )


def _families_share(family: str, sizes: Mapping[str, int]) -> str | None:
    shared = sizes["num_key_value_heads"]
    if FAMILIES[family].heads:
        return None
    own = ", ".join(name for name, its in FAMILIES.items() if its.heads)
    return f"num_key_value_heads {shared}: {family} has no shared ones, leave it out: {own} have"


def _groups_divide(family: str, sizes: Mapping[str, int]) -> str | None:
    num_heads, shared = sizes["num_heads"], sizes["num_key_value_heads"]
    if not num_heads % shared:
        return None
    return (
        f"num_heads {num_heads} cannot share {shared} keys and values: let num_key_value_heads"
        " divide num_heads"
    )


def _vocabulary_holds_bytes(family: str, sizes: Mapping[str, int]) -> str | None:
    if sizes["vocab_size"] >= _LEAST_VOCABULARY:
        return None
    return f"vocab_size {sizes['vocab_size']}: a tokenizer has {_LEAST_VOCABULARY} tokens at least"


_Rule = Callable[[str, Mapping[str, int]], str | None]
_RULES: tuple[tuple[frozenset[str], _Rule], ...] = (  # what each has to know to tell
    (frozenset({"hidden_size", "num_heads"}), _heads_divide),
    (frozenset({"from_scratch", "hidden_size", "num_heads"}), _heads_are_even),
    (frozenset({"from_scratch", "num_key_value_heads"}), _families_share),
    (frozenset({"num_heads", "num_key_value_heads"}), _groups_divide),
    (frozenset({"vocab_size"}), _vocabulary_holds_bytes),
)


def create_llm(
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    ff_dim: int,
    vocab_size: int,
    *,
    num_key_value_heads: int | None = None,
    family: str = "gpt2",
    block_size: int = 1024,
    dropout: float = 0.1,
    dtype: str = "float32",
) -> PreTrainedModel:
    """An untrained model of this architecture; `block_size` is the longest text in tokens.

    Without `num_key_value_heads` every head has keys and values of its own.
    """
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
        **dict.fromkeys(its.heads, num_key_value_heads or num_heads),
        **dict.fromkeys(its.head_sizes, hidden_size // num_heads),
        **dict.fromkeys(its.hidden_sizes, hidden_size),
    )
    build: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_config
    return build(config, dtype=getattr(torch, dtype))
