"""The KL divergence of a trained model to a teacher, or to what it was before the training.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from torch.nn import Module
from transformers import PreTrainedModel

from hpoctl.objectives.causal_lm.evaluation import ExactTrainer
from hpoctl.objectives.causal_lm.tokens import IGNORED, kl_sums
from hpoctl.objectives.causal_lm.trained import load

if TYPE_CHECKING:
    from peft import PeftModel

KEY = "measure.kl"


def named(kl: str, base: object, *, adapted: bool) -> str | None:
    """Whose weights `measure.kl` asks for; None where the model without its adapters is the one.

    `base` is `model.pretrained`. Raises ValueError where there is no base.
    """
    if kl != "base":
        return kl
    if base is None:
        raise ValueError(
            f"{KEY}: 'base' is the model before the training, which a model from scratch lacks:"
            " name a teacher, or its folder"
        )
    return None if adapted else str(base)


def check_vocabulary(name: str, own: Mapping[str, int], *, size: int, length: int) -> None:
    """Raises ValueError where the teacher `name` does not speak of the same tokens.

    `own` are the tokens of the model's tokenizer and their numbers, `size` how many its logits are,
    and `length` the longest row of the evaluation text.
    """
    teacher = load(KEY, name)
    if (tokens := teacher.llm.config.vocab_size) != size:
        raise ValueError(
            f"{KEY}: the teacher '{name}' tells {tokens} tokens apart and the model {size}: KL"
            " needs one vocabulary for both"
        )
    if teacher.tokenizer.get_vocab() != own:
        raise ValueError(
            f"{KEY}: the teacher '{name}' has another tokenizer than the model: KL needs one"
            " vocabulary for both, such as tokenizers trained on one text with the same settings"
        )
    if teacher.longest is not None and teacher.longest < length:
        raise ValueError(
            f"{KEY}: the teacher '{name}' reads {teacher.longest} tokens at once, and the"
            f" evaluation text has rows of {length}"
        )


def kl(trainer: ExactTrainer, llm: PreTrainedModel, name: str | None) -> float:
    """KL(teacher || model) in nats, a mean over all tokens of the evaluation text with a label.

    So it is large where the model gives little to what the teacher holds for likely. The teacher is
    the model itself without its adapters where `name` is None. Both compute in one precision.
    """
    teacher: Module = llm if name is None else load(KEY, name).llm
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
