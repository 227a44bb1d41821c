"""Weights in few bits, on which an adapter is trained: QLoRA.

Dettmers et al. 2023 describe it; bitsandbytes does it, on a CUDA GPU only.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

_QUANTIZED = ("none", "4bit", "8bit")


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
