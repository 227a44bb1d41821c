"""The Trainer of a trial, and what follows it: reports, rungs, counts. Imports torch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hpoctl.integrations import checkpoints
from hpoctl.integrations.transformers import HpoctlCallback
from hpoctl.objectives.causal_lm.evaluation import AT_STEPS, ExactTrainer, totals
from hpoctl.objectives.causal_lm.latency import synchronize
from hpoctl.objectives.causal_lm.meter import Meter, Reading
from hpoctl.trial import Checkpointed, Pruned, Trial


class Follower(HpoctlCallback):
    """Reports at evaluations and rungs; counts over all attempts of the trial."""

    def __init__(self, trial: Trial, rungs: Sequence[int]) -> None:
        self._first_metric = AT_STEPS.get(trial.metrics[0])  # None: it is first known at the end
        super().__init__(trial, self._first_metric or "eval_loss")
        self.meter = Meter()
        self.begun: Callable[[], None] | None = None  # called once there is an optimiser
        self._rungs = frozenset(rungs)
        self._loss: Tensor | float = 0.0  # summed over the steps since the last report
        self._reported_at = 0
        self._accelerator: Any = None

    def follow(self, trainer: Trainer) -> None:
        """Takes the Trainer whose ranks are to be averaged over."""
        self._accelerator = trainer.accelerator

    def count(self, loss: Tensor) -> None:
        """Takes what one batch of a step gave."""
        self._loss = loss + self._loss

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Starts the clock; training that begins anew, after it ran out of memory, counts anew."""
        super().on_train_begin(args, state, control)
        if self.begun is not None:
            self.begun()
        self.meter.start()
        self._loss, self._reported_at = 0.0, state.global_step

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Stops the clock."""
        synchronize()
        self.meter.stop()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Evaluates at a rung; saves at the last step what another trial may go on from."""
        if state.global_step in self._rungs:
            control.should_evaluate = True
        if self.trial.hands_on and state.global_step >= state.max_steps:
            control.should_save = True
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
        # What is first known at the end has no curve: no other metric may stand in for it.
        if self._first_metric is not None:
            super().on_evaluate(args, state, control, **given)

    def extras(self, metrics: Mapping[str, float], state: TrainerState) -> dict[str, float]:
        """What else the evaluation says, and the training loss since the last report, a mean."""
        known = {name: metrics[key] for name, key in AT_STEPS.items() if key != self._first_metric}
        steps = state.global_step - self._reported_at
        loss, self._loss, self._reported_at = self._loss, 0.0, state.global_step
        if not steps or not isinstance(loss, Tensor):
            return known
        return {**known, "train_loss": float(self._accelerator.reduce(loss, "mean")) / steps}

    def leave(self, reason: Pruned | Checkpointed) -> None:
        """Raises it: an objective ends so, also one on several ranks."""
        raise reason

    def inherited(self) -> Path | None:
        """The checkpoint of the trial's parent, whose steps are counted on; None without one.

        Raises FileNotFoundError where the parent has left none.
        """
        left = self.trial.parent_dir
        if left is None:
            return None
        found = checkpoints.latest(left)
        if found is None:
            raise FileNotFoundError(f"{left}: no whole checkpoint there, from which to go on")
        # Our own file, as in `_take`. Every rank counts alike.
        said = torch.load(found / "hpoctl_0.pth", weights_only=False)
        self.steps_before = said["steps_before"] + checkpoints.step_of(found)
        return found

    def restore(self, checkpoint: Path, args: TrainingArguments) -> None:
        """Takes what was kept with a checkpoint, for a run that has no step left to make."""
        self._take(checkpoint, args)

    def state_dict(self) -> dict[str, Any]:
        own = {
            "loss": self._loss,
            "reported_at": self._reported_at,
            "steps_before": self.steps_before,
            "meter": asdict(self.meter.read()),
        }
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._loss, self._reported_at = state["loss"], state["reported_at"]
        self.steps_before = state["steps_before"]
        self.meter.before = Reading(**state["meter"])


class TrialTrainer(ExactTrainer):
    """Counts what it trains on, and evaluates exactly, without label smoothing."""

    def __init__(self, *, follower: Follower, **given: Any) -> None:
        super().__init__(callbacks=[follower], compute_metrics=totals, **given)
        self.follower = follower
        follower.follow(self)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        self.follower.meter.count(inputs)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.follower.count(loss)
        return loss

    def evaluate(self, *given: Any, **named: Any) -> dict[str, float]:
        """As the Trainer's; but training goes on as if nobody had evaluated.

        A DataLoader draws a seed when it is begun: dropout would be another one after it.
        """
        synchronize()  # what the last step left to do is not of the evaluation
        with torch.random.fork_rng(devices=[]), self.follower.meter.evaluating():
            return super().evaluate(*given, **named)

    def resume(self) -> None:
        """Trains to the end: from the start, or from the trial's last checkpoint.

        The start of a trial with a parent is the parent's end.
        """
        found = self.follower.checkpoint()
        if found is None:
            if (parent := self.follower.inherited()) is not None:
                self._load_from_checkpoint(str(parent))
                self.follower.begun = partial(self._take_state, parent)
            self.train()
            return
        state = TrainerState.load_from_json(str(Path(found) / "trainer_state.json"))
        if state.global_step < state.max_steps:
            self.train(resume_from_checkpoint=found)
            return
        self._load_from_checkpoint(found)  # `train` would make one step more
        self.state = state
        self.follower.restore(Path(found), self.args)

    def _take_state(self, parent: Path) -> None:
        """The optimiser's state as a parent left it, but with this trial's rates and schedule."""
        assert self.optimizer is not None and self.lr_scheduler is not None, "training has begun"
        groups = self.optimizer.param_groups
        own = [{key: group[key] for key in group if key != "params"} for group in groups]
        schedule = copy.deepcopy(self.lr_scheduler.state_dict())
        self._load_optimizer_and_scheduler(str(parent))
        for group, values in zip(self.optimizer.param_groups, own, strict=True):
            group.update(values)
        self.lr_scheduler.load_state_dict(schedule)

    def tidy(self) -> None:
        """Removes the trial's checkpoints."""
        if self.is_world_process_zero():
            checkpoints.remove(Path(str(self.args.output_dir)))
