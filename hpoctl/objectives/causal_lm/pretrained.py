"""Trained models: where one is found, and how its weights become a model again.

Weights are loaded once and made into any number of models, with fewer layers or another dropout.
A model takes its tensors over as they are: loaded before a fork, they are in memory once for all
children, and what a child changes, it changes in a copy that the kernel makes of those pages.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hpoctl.objectives.causal_lm.places import KEY, Place
from hpoctl.objectives.causal_lm.refusals import way_out
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import (
        BitsAndBytesConfig,
        GenerationConfig,
        PreTrainedConfig,
        PreTrainedModel,
    )

Found = TypeVar("Found")
_LAYER = re.compile(r"\.(\d+)\.")  # in the name of a tensor; in all families the first number
# Each family has its own names, as resid_pdrop or attention_dropout; other heads are not meant.
_DROPOUT = re.compile(r"(?!classifier_|summary_)(?:\w+_)?p?drop(?:out)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A trained model in its parts."""

    kind: type[PreTrainedModel]
    config: PreTrainedConfig
    generation: GenerationConfig | None
    tensors: Mapping[str, Tensor]


# The one piece of state in this module, and the reason for preparing at all: what the worker has
# loaded before the fork, each child finds here instead of loading it again.
_held: dict[tuple[Place, str], Weights] = {}


def hold(place: Place, dtype: str, *, keep_layers: int | None) -> None:
    """Load a model before any fork, for all children. Raises ValueError, or Infeasible."""
    weights = load(place, dtype)
    changed(weights.config, keep_layers=keep_layers, dropout=None)
    _held[place, dtype] = weights


def take(place: Place, dtype: str) -> Weights:
    """The weights, of which the caller is the only owner: training changes them.

    What was held is held no longer in this process, so that a second trial in it loads them anew.
    """
    for kept in (dtype, "float32"):
        if (place, kept) in _held:
            return _held.pop((place, kept))
    return load(place, dtype)


def outline(place: Place, *, keep_layers: int | None) -> PreTrainedConfig:
    """The model's configuration, without its weights. Raises ValueError, or Infeasible."""
    from transformers import AutoConfig

    held = next((weights.config for (where, _), weights in _held.items() if where == place), None)
    config = held or _found(place, AutoConfig.from_pretrained)
    return changed(config, keep_layers=keep_layers, dropout=None)


def load(place: Place, dtype: str) -> Weights:
    """The weights, from disk or the hub. Raises ValueError."""
    import torch
    from transformers import AutoModelForCausalLM

    read: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_pretrained
    llm = _found(place, read, dtype=getattr(torch, dtype))
    if place.gguf_file is not None:
        # Its tensors are plain numbers by now, but transformers (5.23) refuses to save what says
        # that it is quantised; the model that is made of them says so no more.
        del llm.config.quantization_config
    return Weights(
        kind=type(llm),
        config=llm.config,
        generation=llm.generation_config,
        tensors=llm.state_dict(),
    )


def load_quantized(
    place: Place,
    how: BitsAndBytesConfig,
    *,
    keep_layers: int | None,
    dropout: float | None,
    dtype: str,
) -> PreTrainedModel:
    """A model on this process's GPU, its weights in few bits. Raises ValueError, or Infeasible."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _found(place, AutoConfig.from_pretrained)
    read: Callable[..., PreTrainedModel] = AutoModelForCausalLM.from_pretrained
    return _found(
        place,
        read,
        config=changed(config, keep_layers=keep_layers, dropout=dropout),
        quantization_config=how,
        dtype=getattr(torch, dtype),
        device_map={"": torch.cuda.current_device()},
    )


def _found(place: Place, read: Callable[..., Found], **options: object) -> Found:
    """What `read` finds at a place, without progress bars: they leave a thread."""
    from tqdm import tqdm
    from transformers.utils import logging

    hide: Callable[[], None] = logging.disable_progress_bar
    hide()
    tqdm.monitor_interval = 0  # for the bars that transformers leaves on; no thread survives a fork
    try:
        return read(**place.arguments(), **options)
    except (OSError, ValueError) as wrong:
        raise ValueError(f"{KEY}: {place.name}: {way_out(wrong)}") from wrong


def make(
    weights: Weights, *, keep_layers: int | None, dropout: float | None, dtype: str
) -> PreTrainedModel:
    """A model that takes the weights over. Raises Infeasible where it has too few layers."""
    import torch

    config = changed(weights.config, keep_layers=keep_layers, dropout=dropout)
    tensors = weights.tensors
    if keep_layers is not None:
        tensors = {name: tensors[name] for name in tensors if _layer(name) < keep_layers}
    rebuild: Callable[..., PreTrainedModel] = weights.kind.from_pretrained
    llm = rebuild(None, config=config, state_dict=tensors, dtype=getattr(torch, dtype))
    # With a name, peft asks the hub at every checkpoint whether the base has as many tokens.
    llm.name_or_path = llm.config._name_or_path = ""
    if weights.generation is not None:
        llm.generation_config = weights.generation
    return llm


def _layer(tensor: str) -> int:
    """The layer that a tensor belongs to; -1 for what stands outside of the layers."""
    number = _LAYER.search(tensor)
    return int(number.group(1)) if number else -1


def changed(
    config: PreTrainedConfig, *, keep_layers: int | None, dropout: float | None
) -> PreTrainedConfig:
    """A configuration with the first layers only, or another dropout. Raises Infeasible."""
    config = copy.deepcopy(config)
    if keep_layers is not None:
        layers: int = config.num_hidden_layers
        if keep_layers > layers:
            raise Infeasible(f"model.keep_layers: {keep_layers}, but the model has {layers} layers")
        for name, value in list(vars(config).items()):
            if isinstance(value, list) and len(value) == layers:  # such as layer_types
                setattr(config, name, value[:keep_layers])
        config.num_hidden_layers = keep_layers
    if dropout is not None:
        for name in [name for name in config.to_dict() if _DROPOUT.fullmatch(name)]:
            setattr(config, name, dropout)
    return config
