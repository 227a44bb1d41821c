"""The training of one model: what a trial gets from it, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.models import LLM
from hpoctl.objectives.causal_lm.text import Corpus, collate
from hpoctl.trial import Pruned, Trial

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hpoctl.objectives.causal_lm.trainer import TrialTrainer


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training came to, over all attempts of its trial."""

    seconds: float  # evaluations and saving included; not what an attempt lost that was killed
    steps: int
    tokens: int  # that all ranks trained on, without padding
    rows: int  # likewise
    eval_loss: float


def create_trainer(
    llm: LLM,
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
        data_collator=collate,
        follower=Follower(trial, rungs),
    )


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
    meter = trainer.follower.meter.read()
    counted = torch.tensor([meter.tokens, meter.rows], device=trainer.args.device)
    tokens, rows = trainer.accelerator.reduce(counted, "sum").tolist()
    losses = [log["eval_loss"] for log in trainer.state.log_history if "eval_loss" in log]
    return Trained(
        seconds=meter.train_s,
        steps=trainer.state.global_step,
        tokens=tokens,
        rows=rows,
        eval_loss=losses[-1],
    )
