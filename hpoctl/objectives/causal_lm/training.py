"""The training of one model: its Trainer, what it reports on the way, and where it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text import END, Corpus
from hpoctl.objectives.causal_lm.values import check_names, share
from hpoctl.trial import Pruned, Trial

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import GPT2LMHeadModel, TrainerCallback, TrainerState

    from hpoctl.objectives.causal_lm.evaluation import ExactTrainer

_ALIASES = {  # what people write -> the field of TrainingArguments
    "batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "gradient_clipping": "max_grad_norm",
    "warmup_ratio": "warmup_steps",  # transformers 5: a number below 1 is a share of all steps
}
_AT_STEPS = {  # metric -> the Trainer's name of it
    "eval_loss": "eval_loss",
    "eval_accuracy": "eval_accuracy",
    "perplexity": "eval_perplexity",
}
_SET_HERE = {"output_dir": "the trial's folder", "seed": "the trial's seed"}


def fields(fixed: Mapping[str, object], searched: Mapping[str, object]) -> dict[str, object]:
    """Fields of TrainingArguments and their values, without aliases; `searched` wins."""
    from transformers import TrainingArguments

    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    merged: dict[str, object] = {}
    for group in (fixed, searched):
        check_names(group, [*_ALIASES, *known], "training.")
        named: dict[str, object] = {}
        for name, value in group.items():
            field = _ALIASES.get(name, name)
            if name in _SET_HERE:
                raise ValueError(f"training.{name}: is always {_SET_HERE[name]}: leave it out")
            if name == "warmup_ratio":
                share("training.warmup_ratio", value)
            if field in named:
                raise ValueError(f"training.{name}: '{field}' is given twice, under two names")
            named[field] = value
        merged.update(named)
    return merged


def create_trainer(
    llm: GPT2LMHeadModel, text: Corpus, training: Mapping[str, object], trial: Trial
) -> ExactTrainer:
    """The Trainer, with defaults that suit a trial: evaluations, no checkpoints, no bars."""
    import torch
    from transformers import TrainingArguments

    from hpoctl.objectives.causal_lm.evaluation import ExactTrainer, Meter, totals

    meter = Meter()
    given: dict[str, object] = {
        "eval_strategy": "steps",
        "eval_steps": 0.1,  # a share of all steps
        "per_device_eval_batch_size": 32,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU, torch warns
        **training,
        "output_dir": str(trial.dir),
        "seed": trial.seed,
    }
    # The training loss is logged where an evaluation is due, to be reported with it.
    given.setdefault("logging_strategy", given["eval_strategy"])
    given.setdefault("logging_steps", given["eval_steps"])
    arguments: Callable[..., TrainingArguments] = TrainingArguments
    trainer = ExactTrainer(
        model=llm,
        args=arguments(**given),
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=_collate,
        callbacks=[_reporter(trial), meter],
        compute_metrics=totals,
    )
    trainer.meter = meter
    return trainer


def _collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of blocks; the model itself shifts the labels by one token."""
    import torch

    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def _reporter(trial: Trial) -> TrainerCallback:
    """Hands every evaluation to the trial, and ends it where the trial says so."""
    from transformers import TrainerCallback, TrainerControl, TrainingArguments

    class Reporter(TrainerCallback):
        def on_evaluate(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **_: object,
        ) -> None:
            latest, step = _latest(state), state.global_step
            known = {name: latest[key] for name, key in _AT_STEPS.items()}
            loss = known["eval_loss"]
            if not math.isfinite(loss):
                raise FloatingPointError(f"eval_loss is {loss} at step {step}: training diverged")
            if "loss" in latest:
                known["train_loss"] = latest["loss"]
            # What is first known at the end has no curve: no other metric may stand in for it.
            if (first := trial.metrics[0]) in known:
                trial.report(known.pop(first), step=step, **known)
            # After the last step nothing is left to save, so the trial is complete.
            if step < state.max_steps and trial.should_prune():
                raise Pruned(f"at step {step} of {state.max_steps}, with eval_loss {loss:.4f}")

    return Reporter()


def run(trainer: ExactTrainer) -> tuple[float, float]:
    """Train to the end; the seconds that it took, evaluations included, and the last eval_loss."""
    seconds = float(trainer.train().metrics["train_runtime"])
    steps = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    if trainer.state.global_step not in steps:
        trainer.evaluate()
    return seconds, _latest(trainer.state)["eval_loss"]


def _latest(state: TrainerState) -> dict[str, float]:
    return {name: value for log in state.log_history for name, value in log.items()}


def save(trainer: ExactTrainer, tokenizer: Tokenizer, folder: Path) -> None:
    """Leave what `from_pretrained(folder)` of a model and a tokenizer read."""
    from transformers import PreTrainedTokenizerFast

    trainer.save_model(str(folder))
    wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)
