"""The Trainer of a trial: exact evaluation, and a meter of what the training took.

Imports torch and transformers at once, so import it inside functions.

transformers' own eval_loss (5.23) is a mean over batches, in which a short last batch and a batch
with few labels weigh as much as a full one; it has label smoothing in it, and leaves out what is
not finite. Here it is the mean over all tokens that have a label, of their plain cross-entropy.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import ExportableState

from hpoctl.objectives.causal_lm.latency import synchronize
from hpoctl.objectives.causal_lm.tokens import perplexity, token_sums


class Meter(TrainerCallback, ExportableState):
    """Seconds, rows and tokens of a training, with those before the checkpoint it goes on from."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.training_since: float | None = None
        self.evaluating = 0.0  # seconds, since training_since
        self.rows = 0
        self.tokens: Tensor | int = 0  # a tensor on the GPU: reading it at each step would wait
        self.before: Mapping[str, float] = {}  # what a checkpoint's meter read

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        saved = state.stateful_callbacks  # a mapping once the state is made, whatever its type says
        if state.global_step and isinstance(saved, dict) and type(self).__name__ in saved:
            self.before = saved[type(self).__name__]["attributes"]
        self.training_since, self.evaluating = time.perf_counter(), 0.0
        self.rows = self.tokens = 0

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        synchronize()
        self.before, self.training_since = {**self.read(), "seconds": self._before("seconds")}, None

    def count(self, inputs: Mapping[str, Tensor]) -> None:
        """Count a batch: its rows, and its tokens but for padding."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        self.rows += len(ids)
        self.tokens = self.tokens + (ids.numel() if mask is None else mask.sum())

    def read(self) -> dict[str, float]:
        """Its `seconds` in all; of the training without evaluations, seconds, rows and tokens."""
        now = time.perf_counter()
        read = {name: self._before(name) for name in ("training", "rows", "tokens")}
        if self.training_since is not None:
            read["training"] += now - self.training_since - self.evaluating
            read["rows"] += self.rows
            read["tokens"] += float(self.tokens)
        return {"seconds": self._before("seconds") + now - self.began, **read}

    def _before(self, name: str) -> float:
        return self.before.get(name, 0.0)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps of it."""
        return {"args": {}, "attributes": self.read()}


class ExactTrainer(Trainer):
    """A Trainer whose evaluation is exact, and which reads a meter."""

    meter: Meter

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        self.meter.count(inputs)
        return super().training_step(model, inputs, num_items_in_batch)

    def evaluate(
        self,
        eval_dataset: Dataset[object] | dict[str, Dataset[object]] | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        synchronize()  # what the last training step left to do is not of the evaluation
        began = time.perf_counter()
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self.meter.evaluating += time.perf_counter() - began

    def prediction_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, Tensor, Tensor]:
        """Sums in place of a batch's loss, logits and labels."""
        sums = token_sums(*self.logits(model, inputs))
        return None, sums[:, :2], sums[:, 2]

    def logits(self, model: torch.nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What a model makes of a batch, and its labels."""
        given = self._prepare_inputs(dict(inputs))
        labels = given.pop("labels")
        with torch.no_grad(), self.compute_loss_context_manager():
            return model(**given, use_cache=False).logits, labels


def totals(sums: EvalPrediction) -> dict[str, float]:
    """Loss, accuracy and perplexity of the tokens that `prediction_step` summed up."""
    counted = float(np.sum(np.asarray(sums.label_ids)))
    if not counted:
        raise ValueError("dataset: no token of the evaluation text is to be predicted")
    loss, hits = (float(part) / counted for part in np.sum(np.asarray(sums.predictions), axis=0))
    return {"loss": loss, "accuracy": hits, "perplexity": perplexity(loss)}
