"""How long inference takes, measured.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from hpoctl.objectives.causal_lm.measures import Latency


def check(llm: PreTrainedModel, how: Latency) -> None:
    """Raises ValueError where the model cannot read as much as is to be timed."""
    longest = getattr(llm.config, "max_position_embeddings", None)
    if longest is not None and how.prompt_length + how.new_tokens > longest:
        raise ValueError(
            f"measure.latency: a prompt of {how.prompt_length} tokens and {how.new_tokens} new ones"
            f" are too long: the model reads {longest} at once"
        )


def measure(llm: PreTrainedModel, rows: Iterable[Sequence[int]], how: Latency) -> dict[str, float]:
    """`latency_s`, the median seconds of a greedy generation, and the settings it holds for.

    The prompts are the first tokens of `rows`, which are repeated where they are too few. All runs
    are alike: the same prompts, and exactly `new_tokens` each. Includes no tokenising.
    """
    prompts = _prompts(rows, how).to(next(llm.parameters()).device)
    fixed = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        max_new_tokens=how.new_tokens,
        eos_token_id=None,  # nothing ends a run early
        pad_token_id=0,
    )
    llm.eval()
    own, llm.generation_config = llm.generation_config, fixed  # whose penalties would cost time
    try:
        seconds = [_run(llm, prompts, fixed) for _ in range(how.warmup + how.repeats)][how.warmup :]
    finally:
        llm.generation_config = own
    return {
        "latency_s": statistics.median(seconds),
        "latency_batch": how.batch,
        "latency_prompt_length": how.prompt_length,
        "latency_new_tokens": how.new_tokens,
    }


def _prompts(rows: Iterable[Sequence[int]], how: Latency) -> Tensor:
    size = how.batch * how.prompt_length
    ids = list(itertools.islice(itertools.chain.from_iterable(rows), size))
    return torch.tensor(list(itertools.islice(itertools.cycle(ids), size))).view(how.batch, -1)


def _run(llm: PreTrainedModel, prompts: Tensor, settings: GenerationConfig) -> float:
    mask = torch.ones_like(prompts)
    generate = cast("Callable[..., Tensor]", llm.generate)
    synchronize()
    began = time.perf_counter()
    with torch.inference_mode():
        generate(prompts, attention_mask=mask, generation_config=settings)
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done all that it was given."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
