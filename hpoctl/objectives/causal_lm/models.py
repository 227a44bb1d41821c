"""The models that a trial may train: from which values, and how each is built and saved."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from hpoctl.objectives.causal_lm import adapters, pretrained, scratch
from hpoctl.objectives.causal_lm.adapters import Lora
from hpoctl.objectives.causal_lm.pretrained import Place
from hpoctl.objectives.causal_lm.scratch import Scratch
from hpoctl.objectives.causal_lm.values import check_names, share, whole
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_DTYPES = ("float32", "bfloat16")
_OF_SCRATCH = ("from_scratch", *scratch.KEYS)
_OF_PRETRAINED = ("pretrained", "keep_layers", "quantize")
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


def check(model: Mapping[str, object], lora: Mapping[str, object] | None) -> None:
    """Raises ValueError for fixed values that no searched ones can mend; loads nothing."""
    check_names(model, KNOWN, "model.")
    if "from_scratch" in model:
        scratch.known_family(model["from_scratch"])
    if "pretrained" in model:
        _pretrained(model, lora)
    elif lora is not None:
        adapters.read_lora(lora)


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
            raise ValueError("lora: needs model.pretrained: an untrained model is trained in full")
        return scratch.read_scratch(model, _dtype(model))
    found = _pretrained(model, lora)
    if found.quantize is not None and found.lora is None:
        raise ValueError(f"model.quantize: {found.quantize} weights cannot be trained: add lora")
    return found


def _pretrained(model: Mapping[str, object], lora: Mapping[str, object] | None) -> Pretrained:
    _refuse(model, _OF_SCRATCH, "is for a model from scratch, and model.pretrained is given too")
    place, layers = pretrained.locate(str(model["pretrained"])), model.get("keep_layers")
    quantize = adapters.read_quantize(model.get("quantize", "none"))
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


def tokenizer(model: Mapping[str, object]) -> str | None:
    """Whose tokenizer it needs: a name, folder or GGUF file; None where one is to be trained."""
    if "pretrained" not in model:
        return None
    place = pretrained.locate(str(model["pretrained"]))
    return place.source if place.gguf_file is None else f"{place.source}/{place.gguf_file}"


def build(model: Model, *, vocab_size: int, block_size: int) -> LLM:
    """The model of a trial, for a tokenizer of `vocab_size` and texts of up to `block_size` tokens.

    Raises Infeasible where it is too small for those, ValueError where it cannot be loaded.
    """
    if isinstance(model, Scratch):
        llm = _untrained(model, vocab_size=vocab_size, block_size=block_size)
    else:
        llm = _trained(model)
        _check_fit(llm, model.place, vocab_size=vocab_size, block_size=block_size)
    llm.loss_type = "ForCausalLM"  # transformers 5.23 guesses it from the class, and misses GPT-2
    if isinstance(model, Pretrained) and model.lora is not None:
        return adapters.attach(llm, model.lora)
    return llm


def _untrained(model: Scratch, *, vocab_size: int, block_size: int) -> PreTrainedModel:
    if model.vocab_size is not None and model.vocab_size < vocab_size:
        raise Infeasible(
            f"model.vocab_size: {model.vocab_size}, but the tokenizer has {vocab_size} tokens:"
            " give a larger one, or a smaller dataset.vocab_size"
        )
    return scratch.create_llm(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_heads,
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
        adapters.quantization(model.quantize, model.dtype),
        keep_layers=model.keep_layers,
        dropout=model.dropout,
        dtype=model.dtype,
    )


def _check_fit(llm: PreTrainedModel, place: Place, *, vocab_size: int, block_size: int) -> None:
    longest = getattr(llm.config, "max_position_embeddings", None)
    if longest is not None and block_size > longest:
        raise Infeasible(
            f"dataset.max_length: {block_size} tokens, but {place.name} takes {longest} at most"
        )
    if vocab_size > llm.config.vocab_size:
        raise ValueError(
            f"model.pretrained: {place.name} knows {llm.config.vocab_size} tokens, its tokenizer"
            f" {vocab_size}: their files do not belong together"
        )


def parameters(llm: LLM) -> dict[str, float]:
    """How many numbers the model has, without an adapter, and how many are trained."""
    if (adapted := _adapted(llm)) is not None:
        trainable, every = adapted.get_nb_trainable_parameters()
        return {"parameters": float(every - trainable), "trainable_parameters": float(trainable)}
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
