"""The KL divergence of a trained model to a teacher, or to what it was before the training.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from torch.nn import Module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from hpoctl.objectives.causal_lm.evaluation import ExactTrainer
from hpoctl.objectives.causal_lm.tokens import IGNORED, kl_sums

if TYPE_CHECKING:
    from peft import PeftModel


def named(kl: str, base: object, *, adapted: bool) -> str | None:
    """Whose weights `measure.kl` asks for; None where the model without its adapters is the one.

    `base` is `model.pretrained`. Raises ValueError where there is no base.
    """
    if kl != "base":
        return kl
    if base is None:
        raise ValueError(
            "measure.kl: 'base' is the model before the training, which a model from scratch lacks:"
            " name a teacher, or its folder"
        )
    return None if adapted else str(base)


# Kept for the reason that the corpus is: loaded before the fork, it is there in each child.
@functools.cache
def load(name: str) -> PreTrainedModel:
    """The model of this name or in this folder, in the precision that it was saved in."""
    logging.disable_progress_bar()  # it leaves a thread, which no fork survives
    try:
        llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as wrong:
        raise ValueError(f"measure.kl: '{name}' cannot be loaded as a model: {wrong}") from wrong
    llm.requires_grad_(False)
    return llm


def check_vocabulary(name: str, own: Mapping[str, int], *, size: int, length: int) -> None:
    """Raises ValueError where the teacher `name` does not speak of the same tokens.

    `own` are the tokens of the model's tokenizer and their numbers, `size` how many its logits are,
    and `length` the longest row of the evaluation text.
    """
    config = load(name).config
    if config.vocab_size != size:
        raise ValueError(
            f"measure.kl: the teacher '{name}' tells {config.vocab_size} tokens apart and the model"
            f" {size}: KL needs one vocabulary for both"
        )
    try:
        tokens = AutoTokenizer.from_pretrained(name).get_vocab()
    except (OSError, ValueError):
        tokens = own  # a teacher saved without its tokenizer: the sizes agree, and that is all
    if tokens != own:
        raise ValueError(
            f"measure.kl: the teacher '{name}' has another tokenizer than the model: KL needs one"
            " vocabulary for both, such as tokenizers trained on one text with the same settings"
        )
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < length:
        raise ValueError(
            f"measure.kl: the teacher '{name}' reads {longest} tokens at once, and the evaluation"
            f" text has rows of {length}"
        )


def kl(trainer: ExactTrainer, llm: PreTrainedModel, name: str | None) -> float:
    """KL(teacher || model) in nats, a mean over all tokens of the evaluation text with a label.

    So it is large where the model gives little to what the teacher holds for likely. The teacher is
    the model itself without its adapters where `name` is None. Both compute in one precision.
    """
    teacher: Module = llm if name is None else load(name)
    teacher.to(llm.device)
    llm.train(False)
    teacher.train(False)
    divergence, counted = 0.0, 0
    for inputs in trainer.get_eval_dataloader():
        with trainer.accelerator.autocast():
            learnt, labels = trainer.logits(llm, inputs)
            with _as_it_was(llm, adapted=name is None):
                known, _ = trainer.logits(teacher, inputs)
        sums = trainer.accelerator.gather_for_metrics(kl_sums(known, learnt, labels))
        counts = trainer.accelerator.gather_for_metrics((labels[:, 1:] != IGNORED).sum(dim=1))
        divergence += float(sums.sum())
        counted += int(counts.sum())
    return divergence / counted


def _as_it_was(llm: PreTrainedModel, *, adapted: bool) -> AbstractContextManager[None]:
    return cast("PeftModel", llm).disable_adapter() if adapted else contextlib.nullcontext()
