"""The Trainer of a trial, and what follows it: reports, rungs, counts. Imports torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hpoctl.integrations import checkpoints
from hpoctl.integrations.transformers import HpoctlCallback
from hpoctl.trial import Checkpointed, Pruned, Trial


class Follower(HpoctlCallback):
    """Reports at evaluations and rungs; counts over all attempts of the trial."""

    def __init__(self, trial: Trial, rungs: Sequence[int]) -> None:
        super().__init__(trial)
        self.tokens = 0  # that this rank trained on
        self._rungs = frozenset(rungs)
        self._loss: Tensor | float = 0.0  # summed over the steps since the last report
        self._reported_at = 0
        self._seconds = 0.0  # until `_since`
        self._since: float | None = None
        self._accelerator: Any = None

    def follow(self, trainer: Trainer) -> None:
        """Takes the Trainer whose ranks are to be averaged over."""
        self._accelerator = trainer.accelerator

    def count(self, loss: Tensor, tokens: int) -> None:
        """Takes what one batch of a step gave."""
        self._loss = loss + self._loss
        self.tokens += tokens

    @property
    def seconds(self) -> float:
        """How long training took so far, evaluations and saving included."""
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Starts the clock; training that begins anew, after it ran out of memory, counts anew."""
        super().on_train_begin(args, state, control)
        self._since, self._loss, self._reported_at = time.monotonic(), 0.0, state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Stops the clock."""
        self._seconds, self._since = self.seconds, None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Evaluates at a rung."""
        if state.global_step in self._rungs:
            control.should_evaluate = True
        super().on_step_end(args, state, control)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        """Raises FloatingPointError where the loss is no number."""
        loss, step = given["metrics"]["eval_loss"], state.global_step
        if not math.isfinite(loss):
            raise FloatingPointError(f"eval_loss is {loss} at step {step}: training diverged")
        super().on_evaluate(args, state, control, **given)

    def extras(self, metrics: Mapping[str, float], state: TrainerState) -> dict[str, float]:
        """The training loss, averaged over the steps since the last report."""
        steps = state.global_step - self._reported_at
        loss, self._loss, self._reported_at = self._loss, 0.0, state.global_step
        if not steps or not isinstance(loss, Tensor):
            return {}
        return {"train_loss": float(self._accelerator.reduce(loss, "mean")) / steps}

    def leave(self, reason: Pruned | Checkpointed) -> None:
        """Raises it: an objective ends so, also one on several ranks."""
        raise reason

    def restore(self, checkpoint: Path, args: TrainingArguments) -> None:
        """Takes what was kept with a checkpoint, for a run that has no step left to make."""
        self._take(checkpoint, args)

    def state_dict(self) -> dict[str, Any]:
        own = {
            "tokens": self.tokens,
            "loss": self._loss,
            "reported_at": self._reported_at,
            "seconds": self.seconds,
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.tokens, self._loss = state["tokens"], state["loss"]
        self._reported_at, self._seconds = state["reported_at"], state["seconds"]


class TrialTrainer(Trainer):
    """Counts what it trains on, and evaluates without label smoothing."""

    def __init__(self, *, follower: Follower, **given: Any) -> None:
        super().__init__(callbacks=[follower], **given)
        self.follower = follower
        follower.follow(self)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        tokens = inputs["input_ids"].numel()
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.follower.count(loss, tokens)
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """As the Trainer's; but held-out loss is that of the text, whatever training smooths.

        Else trials with different smoothing could not be compared.
        """
        smoother = self.label_smoother
        if not model.training:
            self.label_smoother = None
        try:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.label_smoother = smoother

    def evaluate(self, *given: Any, **named: Any) -> dict[str, float]:
        """As the Trainer's; but training goes on as if nobody had evaluated.

        A DataLoader draws a seed when it is begun: dropout would be another one after it.
        """
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*given, **named)

    def resume(self) -> None:
        """Trains to the end: from the start, or from the trial's last checkpoint."""
        found = self.follower.checkpoint()
        if found is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(Path(found) / "trainer_state.json"))
        if state.global_step < state.max_steps:
            self.train(resume_from_checkpoint=found)
            return
        self._load_from_checkpoint(found)  # `train` would make one step more
        self.state = state
        self.follower.restore(Path(found), self.args)

    def tidy(self) -> None:
        """Removes the trial's checkpoints."""
        if self.is_world_process_zero():
            checkpoints.remove(Path(str(self.args.output_dir)))
