"""Trained models that are not trained further: teachers, scorers, and those that only generate.

Imports transformers at once, so import it inside functions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.refusals import way_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A model in evaluation mode whose weights stay as they are, and its tokenizer."""

    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def longest(self) -> int | None:
        """How many tokens it reads at once, where it says so."""
        longest: int | None = getattr(self.llm.config, "max_position_embeddings", None)
        return longest


# Kept for the reason that the corpus is: loaded before the fork, it is there in each child.
@functools.cache
def load(key: str, name: str) -> Trained:
    """The model of this name or in this folder, in the precision that it was saved in.

    Raises ValueError, which names the `key` that asked for it.
    """
    logging.disable_progress_bar()  # it leaves a thread, which no fork survives
    place = locate(name, key)
    try:
        llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            **place.arguments(), dtype="auto"
        )
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(**place.arguments())
    except (OSError, ValueError) as wrong:
        raise ValueError(f"{key}: '{name}' cannot be loaded: {way_out(wrong)}") from wrong
    llm.requires_grad_(False)
    llm.train(False)
    return Trained(llm=llm, tokenizer=tokenizer)
