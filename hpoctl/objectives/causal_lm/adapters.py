"""LoRA (Hu et al. 2021): a few trained numbers beside the frozen ones; QLoRA, on 4-bit weights.

Dettmers et al. 2023 describe QLoRA; bitsandbytes does it, on a CUDA GPU only.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.values import check_names, group, share, whole

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn import Module
    from transformers import BitsAndBytesConfig, PreTrainedModel

KEYS = ("r", "alpha", "dropout", "target_modules")
_EVERY = "all-linear"
_QUANTIZED = ("none", "4bit", "8bit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What is trained beside the frozen weights."""

    r: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]  # names of layers, all-linear alone, or none: what suits the family


def of(*trees: Mapping[str, object]) -> Mapping[str, object] | None:
    """The group `lora` of all that have it, the last one winning; None where none has."""
    given = [group(tree, "lora") for tree in trees if "lora" in tree]
    return {name: value for lora in given for name, value in lora.items()} if given else None


def read_lora(lora: Mapping[str, object]) -> Lora:
    """The group `lora`, defaults filled in. Raises ValueError."""
    check_names(lora, KEYS, "lora.")
    return Lora(
        r=whole("lora.r", lora.get("r", 8)),
        alpha=whole("lora.alpha", lora.get("alpha", 16)),
        dropout=share("lora.dropout", lora.get("dropout", 0.0)),
        targets=_targets(lora.get("target_modules", "")),
    )


def _targets(given: object) -> tuple[str, ...]:
    """Names in a list, or in one string with commas: a searched value cannot be a list."""
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"lora.target_modules: is {given!r}, but must be {_EVERY}, or names as in q_proj,v_proj"
        )
    return tuple(name.strip() for name in names if name.strip())


def attach(llm: PreTrainedModel, lora: Lora) -> PeftModel:
    """The model with an adapter that alone is trained. Raises ValueError for unknown layers."""
    from peft import LoraConfig, prepare_model_for_kbit_training
    from transformers.pytorch_utils import Conv1D

    if getattr(llm, "is_quantized", False):
        ready: Callable[..., PreTrainedModel] = prepare_model_for_kbit_training
        # Checkpoints of gradients are the Trainer's to switch on: training.gradient_checkpointing.
        llm = ready(llm, use_gradient_checkpointing=False)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=_modules(llm, lora.targets),
        # As GPT-2 has them: said here, or peft warns.
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in llm.modules()),
    )
    return _wrapped(llm, config)


def _modules(llm: PreTrainedModel, targets: Sequence[str]) -> list[str] | str:
    """The layers as peft takes them. Raises ValueError for a name that the model has not."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL

    if not targets:
        return list(USUAL.get(llm.config.model_type, ())) or _EVERY
    if _EVERY in targets:
        return _EVERY
    layers = _linear_layers(llm)
    known = sorted({name.rpartition(".")[2] for name in layers})
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            close = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(known)}"
            raise ValueError(f"lora.target_modules: the model has no layer '{target}'; {hint}")
    return list(targets)


def _linear_layers(llm: PreTrainedModel) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D

    find: Callable[[], Module] = llm.get_output_embeddings
    head = find()
    return [
        name
        for name, module in llm.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    ]


def _wrapped(llm: PreTrainedModel, config: PeftConfig) -> PeftModel:
    from peft import get_peft_model

    wrap: Callable[..., PeftModel] = get_peft_model
    with warnings.catch_warnings():
        # peft 0.21 asks for is_gradient_checkpointing, which transformers 5.23 wants renamed.
        warnings.simplefilter("ignore", FutureWarning)
        return wrap(llm, config)


def merged(llm: PeftModel) -> PreTrainedModel:
    """The model with the adapter added to its weights; `llm` is used up."""
    merge: Callable[[], PreTrainedModel] = llm.merge_and_unload
    return merge()


def moved(llm: PeftModel, base: PreTrainedModel) -> PeftModel:
    """The adapter of `llm` on another copy of its base."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    other = _wrapped(base, llm.peft_config["default"])
    set_peft_model_state_dict(other, get_peft_model_state_dict(llm, save_embedding_layers=False))
    return other


def read_quantize(value: object) -> str | None:
    """How the frozen weights are kept; None is as they are. Raises ValueError."""
    if value not in _QUANTIZED:
        raise ValueError(
            f"model.quantize: is {value!r}, but must be one of {', '.join(_QUANTIZED)}"
        )
    if value == "none":
        return None
    check_quantize(str(value))
    return str(value)


def check_quantize(quantize: str) -> None:
    """Raises ValueError where weights cannot be kept like that; touches no CUDA."""
    if find_spec("bitsandbytes") is None:
        way = "pip install bitsandbytes, or leave it out"
        raise ValueError(
            f"model.quantize: {quantize} needs bitsandbytes, not installed here: {way}"
        )
    if not any(Path("/dev").glob("nvidia[0-9]*")):  # torch would wake CUDA up, before the fork
        way = "ask for one (resources.gpus: 1), or leave it out"
        raise ValueError(
            f"model.quantize: {quantize} needs a CUDA GPU, and this node has none: {way}"
        )


def quantization(quantize: str, dtype: str) -> BitsAndBytesConfig:
    """What `from_pretrained` needs to know to load weights like that."""
    import torch
    from transformers import BitsAndBytesConfig

    configure: Callable[..., BitsAndBytesConfig] = BitsAndBytesConfig
    if quantize == "8bit":
        return configure(load_in_8bit=True)
    return configure(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
