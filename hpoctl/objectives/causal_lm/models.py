"""The models that a trial may train: from which values, and how each is built and saved."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from hpoctl.objectives.causal_lm import adapters, pretrained, quantized, scratch
from hpoctl.objectives.causal_lm.adapters import Lora
from hpoctl.objectives.causal_lm.places import Place, locate
from hpoctl.objectives.causal_lm.scratch import Scratch
from hpoctl.objectives.causal_lm.values import check_names, share, whole
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_DTYPES = ("float32", "bfloat16")
_OF_SCRATCH = ("from_scratch", *scratch.KEYS)
_OF_PRETRAINED = ("pretrained", "keep_layers", "quantize")
NO_BASE = "lora: needs model.pretrained: an untrained model is trained in full"
KNOWN = (*_OF_SCRATCH, *_OF_PRETRAINED, "dropout", "dtype")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """A trained model, whole or its first layers, fine-tuned in full or beside it."""

    place: Place
    keep_layers: int | None  # None: all
    dropout: float | None  # None: as it was trained
    dtype: str
    quantize: str | None
    lora: Lora | None


Model = Scratch | Pretrained
LLM: TypeAlias = "PreTrainedModel | PeftModel"


def check(model: Mapping[str, object]) -> None:
    """Raises ValueError for fixed values that no searched ones can mend; loads nothing."""
    check_names(model, KNOWN, "model.")
    if "from_scratch" in model:
        scratch.known_family(model["from_scratch"])
    if "pretrained" in model:
        _pretrained(model, None)


def check_fixed(model: Mapping[str, object], searched: Mapping[str, object]) -> None:
    """Raises ValueError or Infeasible where the fixed values leave nothing to any searched ones."""
    if not {"pretrained"} & {*model, *searched}:
        scratch.check_sizes(model, searched)
    if "dtype" not in searched:
        _dtype(model)
    if "dropout" in model and "dropout" not in searched:
        share("model.dropout", model["dropout"])


def prepare(model: Mapping[str, object]) -> None:
    """Load before any fork what all children share. Raises ValueError, or Infeasible."""
    if "pretrained" not in model:
        return
    fixed = _pretrained(model, None)
    if fixed.quantize is None:
        pretrained.hold(fixed.place, fixed.dtype, keep_layers=fixed.keep_layers)


def read(model: Mapping[str, object], lora: Mapping[str, object] | None) -> Model:
    """The groups `model` and `lora` as a model that can be built; no `lora` trains it in full.

    Raises ValueError, or Infeasible where sizes do not go together.
    """
    check_names(model, KNOWN, "model.")
    if "pretrained" not in model:
        _refuse(model, _OF_PRETRAINED, "needs model.pretrained")
        if lora is not None:
            raise ValueError(NO_BASE)
        return scratch.read_scratch(model, _dtype(model))
    found = _pretrained(model, lora)
    if found.quantize is not None and found.lora is None:
        raise ValueError(f"model.quantize: {found.quantize} weights cannot be trained: add lora")
    if found.quantize is not None and found.lora is not None and not found.lora.keeps_base:
        raise ValueError(
            "lora.init_lora_weights: changes the weights, and quantised ones cannot be: leave it"
            " out, or model.quantize"
        )
    return found


def _pretrained(model: Mapping[str, object], lora: Mapping[str, object] | None) -> Pretrained:
    _refuse(model, _OF_SCRATCH, "is for a model from scratch, and model.pretrained is given too")
    place, layers = locate(str(model["pretrained"])), model.get("keep_layers")
    quantize = quantized.read_quantize(model.get("quantize", "none"))
    if quantize is not None and place.gguf_file is not None:
        raise ValueError("model.quantize: not of a GGUF file, which is quantised: leave it out")
    return Pretrained(
        place=place,
        keep_layers=None if layers is None else whole("model.keep_layers", layers),
        dropout=share("model.dropout", model["dropout"]) if "dropout" in model else None,
        dtype=_dtype(model, "float32" if quantize is None else "bfloat16"),
        quantize=quantize,
        lora=None if lora is None else adapters.read_lora(lora),
    )


def _refuse(model: Mapping[str, object], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if name in model:
            raise ValueError(f"model.{name}: {why}")


def _dtype(model: Mapping[str, object], usual: str = "float32") -> str:
    dtype = model.get("dtype", usual)
    if dtype not in _DTYPES:
        close = difflib.get_close_matches(str(dtype), _DTYPES, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(_DTYPES)}"
        raise ValueError(f"model.dtype: {dtype!r} is not known; {hint}")
    return str(dtype)


def tokenizer(model: Mapping[str, object]) -> Place | None:
    """Whose tokenizer it needs; None where one is to be trained."""
    return locate(str(model["pretrained"])) if "pretrained" in model else None


def room(model: Model, *, block_size: int) -> int | None:
    """How many tokens the model can tell apart; None for as many as the tokenizer has.

    Reads no weights. Raises Infeasible where it has too few layers, or cannot read texts of
    `block_size` tokens; ValueError where there is no such model.
    """
    if isinstance(model, Scratch):
        return model.vocab_size
    config = pretrained.outline(model.place, keep_layers=model.keep_layers)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and block_size > longest:
        raise Infeasible(
            f"dataset.max_length: {block_size} tokens, but {model.place.name} takes {longest} at"
            " most"
        )
    if model.lora is not None:
        model.lora.check_layers(config.num_hidden_layers)
    vocab_size: int = config.vocab_size
    return vocab_size


def check_vocabulary(model: Model, room: int | None, vocab_size: int) -> None:
    """Raises Infeasible or ValueError where the tokenizer has more tokens than there is room for.

    Infeasible is what another trial may have room for.
    """
    if room is None or vocab_size <= room:
        return
    if isinstance(model, Scratch):
        raise Infeasible(
            f"model.vocab_size: {room}, but the tokenizer has {vocab_size} tokens: give a larger"
            " one, or a smaller dataset.vocab_size"
        )
    raise ValueError(
        f"model.pretrained: {model.place.name} knows {room} tokens, its tokenizer {vocab_size}:"
        " their files do not belong together"
    )


def build(model: Model, *, vocab_size: int, block_size: int) -> LLM:
    """The model of a trial, for a tokenizer of `vocab_size` and texts of up to `block_size` tokens.

    Both must have been found to fit. Raises ValueError where it cannot be loaded.
    """
    if isinstance(model, Scratch):
        llm = _untrained(model, vocab_size=vocab_size, block_size=block_size)
    else:
        llm = _trained(model)
    llm.loss_type = "ForCausalLM"  # transformers 5.23 guesses it from the class, and misses GPT-2
    if isinstance(model, Pretrained) and model.lora is not None:
        return adapters.attach(llm, model.lora)
    return llm


def _untrained(model: Scratch, *, vocab_size: int, block_size: int) -> PreTrainedModel:
    return scratch.create_llm(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
        num_key_value_heads=model.num_key_value_heads,
        ff_dim=model.ff_dim,
        vocab_size=model.vocab_size or vocab_size,
        family=model.family,
        block_size=block_size,
        dropout=model.dropout,
        dtype=model.dtype,
    )


def _trained(model: Pretrained) -> PreTrainedModel:
    if model.quantize is None:
        weights = pretrained.take(model.place, model.dtype)
        return pretrained.make(
            weights, keep_layers=model.keep_layers, dropout=model.dropout, dtype=model.dtype
        )
    return pretrained.load_quantized(
        model.place,
        quantized.quantization(model.quantize, model.dtype),
        keep_layers=model.keep_layers,
        dropout=model.dropout,
        dtype=model.dtype,
    )


def parameters(llm: LLM) -> dict[str, float]:
    """How many numbers the model has, without an adapter, and how many are trained."""
    if (adapted := _adapted(llm)) is not None:
        trainable, every = adapted.get_nb_trainable_parameters()
        added = adapters.added(adapted)  # less than is trained where biases of the model are
        return {"parameters": float(every - added), "trainable_parameters": float(trainable)}
    count: Callable[..., int] = llm.num_parameters
    return {
        "parameters": float(count()),
        "trainable_parameters": float(count(only_trainable=True)),
    }


def save(llm: LLM, model: Model, folder: Path) -> None:
    """Leave what `from_pretrained(folder)` reads without peft, any adapter merged into the weights.

    The last that is done with `llm`: what is merged cannot be trained on.
    """
    adapted = _adapted(llm)
    if adapted is not None and isinstance(model, Pretrained) and model.quantize is not None:
        # Weights of 4 bits are too coarse to add an adapter to: it goes onto those they came from.
        adapted = adapters.moved(adapted, _trained(replace(model, quantize=None)))
    whole = llm if adapted is None else adapters.merged(adapted)
    whole.save_pretrained(str(folder))


def _adapted(llm: LLM) -> PeftModel | None:
    return cast("PeftModel", llm) if hasattr(llm, "peft_config") else None
