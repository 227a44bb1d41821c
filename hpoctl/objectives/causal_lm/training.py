"""The training of one model: what a trial gets from it, and where it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text import END, Corpus
from hpoctl.trial import Pruned, Trial

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import PreTrainedModel, TrainingArguments

    from hpoctl.objectives.causal_lm.trainer import TrialTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training came to, over all attempts of its trial."""

    seconds: float  # evaluations and saving included; not what an attempt lost that was killed
    steps: int
    tokens: int  # that all ranks trained on, padding included
    eval_loss: float


def create_trainer(
    llm: PreTrainedModel,
    text: Corpus,
    made: TrainingArguments,
    trial: Trial,
    rungs: Sequence[int] = (),
) -> TrialTrainer:
    """The Trainer of a trial, which evaluates at `rungs` too."""
    from hpoctl.objectives.causal_lm.trainer import Follower, TrialTrainer

    return TrialTrainer(
        model=llm,
        args=made,
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=_collate,
        follower=Follower(trial, rungs),
    )


def _collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of blocks; the model itself shifts the labels by one token."""
    import torch

    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def run(trainer: TrialTrainer) -> Trained:
    """Train to the end, from the last checkpoint if there is one.

    Raises Pruned, Checkpointed, and FloatingPointError where the loss is no number any more.
    """
    import torch

    try:
        trainer.resume()
        evaluated = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
        if trainer.state.global_step not in evaluated or trainer.args.load_best_model_at_end:
            trainer.evaluate()
    except (Pruned, FloatingPointError):
        trainer.tidy()  # nobody goes on from here
        raise
    tokens = torch.tensor(trainer.follower.tokens, device=trainer.args.device)
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    return Trained(
        seconds=trainer.follower.seconds,
        steps=trainer.state.global_step,
        tokens=int(trainer.accelerator.reduce(tokens, "sum")),
        eval_loss=losses[-1],
    )


def save(trainer: TrialTrainer, tokenizer: Tokenizer, folder: Path) -> None:
    """Leave what `from_pretrained(folder)` of a model and a tokenizer read."""
    from transformers import PreTrainedTokenizerFast

    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
        wrap(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
