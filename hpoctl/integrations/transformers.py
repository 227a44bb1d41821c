"""A Trainer of your own in a trial: one callback that reports, prunes and saves.

Works in a script that `command:` starts, by itself or on the ranks of `torchrun`, and in a function
that `objective:` names. A run that was cut off and goes on from `checkpoint()` makes the same steps
as one that was not.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hpoctl.integrations import checkpoints, current_trial, leave
from hpoctl.trial import Checkpointed, Pruned, Trial

__all__ = ["HpoctlCallback"]


class HpoctlCallback(TrainerCallback):
    """Tells the trial of every evaluation, ends the training where the trial says so.

    `trainer.train(resume_from_checkpoint=callback.checkpoint(trainer.args.output_dir))` goes on
    where it was cut off. `output_dir` has to be a folder of the trial, such as `trial.dir`. The
    checkpoint of the latest step stays, and the best one where the Trainer needs it; older go.
    """

    def __init__(self, trial: Trial | None = None, metric: str = "eval_loss") -> None:
        self.trial: Trial = trial or current_trial()
        self._metric = metric
        self._resumed_from: Path | None = None
        self._epoch_rng: dict[str, Any] = {}
        self._asked = False
        self.steps_before = 0  # that another trial made, from which this one goes on
        self._owed = False  # a checkpoint, which waits for the evaluation at the end of an epoch

    def checkpoint(self, output_dir: str | Path | None = None) -> str | None:
        """The whole checkpoint to go on from, or None; what is left of others is removed."""
        folder = self.trial.dir if output_dir is None else Path(output_dir)
        found = checkpoints.latest(folder) if self.trial.resumed else None
        if self._first():
            checkpoints.remove(folder, keep=set() if found is None else self._needed(found))
        self._resumed_from = found
        return None if found is None else str(found)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Lets a run that goes on not evaluate at its start a second time."""
        if self._resumed_from is not None:
            args.eval_on_start = False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Remembers from which numbers the epoch's order of rows comes."""
        if self._resumed_from is not None:
            self._take(self._resumed_from, args)
            _set_rng(self._epoch_rng)
            self._resumed_from = None
        self._epoch_rng = _rng()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Asks at every step whether to save; an evaluation that is due comes first."""
        if not self._asked and self.trial.should_checkpoint():
            self._asked = True
            control.should_save = True
        if control.should_save and _is_whole(state.epoch):
            control.should_save, self._owed = False, True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Saves after the epoch's evaluation what became due at its last step."""
        if self._owed:
            control.should_save, self._owed = True, False

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **given: Any,
    ) -> None:
        """Reports once a step; ends the training if the trial is pruned."""
        step, metrics = state.global_step, given["metrics"]
        if sum(log.get("step") == step and self._metric in log for log in state.log_history) > 1:
            return  # evaluated again, or reported before the trial was cut off
        if self._metric not in metrics:
            raise ValueError(f"no '{self._metric}' in this evaluation: {', '.join(metrics)}")
        at = self.steps_before + step
        self.trial.report(metrics[self._metric], at, **self.extras(metrics, state))
        # After the last step nothing is left to save, so the trial is complete.
        if step < state.max_steps and self.trial.should_prune():
            value = metrics[self._metric]
            where = f"at step {step} of {state.max_steps}"
            self.leave(Pruned(f"{where}, with {self._metric} {value:.4f}"))

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Seals what the Trainer has saved; leaves if that is what it was asked for."""
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self._epoch_rng = _rng() if _is_whole(state.epoch) else self._epoch_rng
        torch.save(self.state_dict(), self._own(checkpoint, args))
        _meet()  # every rank has written its part
        if self._first():
            checkpoints.seal(checkpoint)
            checkpoints.remove(checkpoint.parent, keep=self._needed(checkpoint, state))
        _meet()  # it counts before anybody leaves
        if self._asked and state.global_step < state.max_steps:
            self.leave(Checkpointed(f"at step {state.global_step} of {state.max_steps}"))

    def extras(self, metrics: Mapping[str, float], state: TrainerState) -> dict[str, float]:
        """What is reported beside the metric: all other numbers of the evaluation."""
        return {
            name: value
            for name, value in metrics.items()
            if name != self._metric and isinstance(value, int | float) and math.isfinite(value)
        }

    def leave(self, reason: Pruned | Checkpointed) -> None:
        """Ends the trial from within the Trainer's loop."""
        leave(self.trial, reason)

    def state_dict(self) -> dict[str, Any]:
        """What this rank needs besides the Trainer's own checkpoint."""
        return {"epoch_rng": self._epoch_rng}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes it back."""
        self._epoch_rng = state["epoch_rng"]

    def _take(self, checkpoint: Path, args: TrainingArguments) -> None:
        # Not weights only: the states of Python's and numpy's generators. It is our own file.
        self.load_state_dict(torch.load(self._own(checkpoint, args), weights_only=False))

    def _needed(self, checkpoint: Path, state: TrainerState | None = None) -> set[Path]:
        """This one, and the best one, which `load_best_model_at_end` will want."""
        state = state or TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        best = state.best_model_checkpoint
        return {checkpoint} if best is None else {checkpoint, checkpoint.with_name(Path(best).name)}

    def _first(self) -> bool:
        return not _distributed() or torch.distributed.get_rank() == 0

    def _own(self, checkpoint: Path, args: TrainingArguments) -> Path:
        return checkpoint / f"hpoctl_{args.process_index}.pth"


def _is_whole(epoch: float | None) -> bool:
    """Whether an epoch has just ended, whose evaluation is still to come."""
    return epoch is not None and epoch == int(epoch)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _meet() -> None:
    if _distributed():
        torch.distributed.barrier()


def _rng() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.random.get_rng_state(),
    }


def _set_rng(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.random.set_rng_state(state["torch"])
