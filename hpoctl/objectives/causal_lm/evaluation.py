"""Evaluation that is exact to the token.

Imports torch and transformers at once, so import it inside functions.

transformers' own eval_loss (5.23) is a mean over batches, in which a short last batch and a batch
with few labels weigh as much as a full one; it has label smoothing in it, and leaves out what is
not finite. Here it is the mean over all tokens that have a label, of their plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, Trainer

from hpoctl.objectives.causal_lm.tokens import perplexity, token_sums

AT_STEPS = {  # metric -> the Trainer's name of it
    "eval_loss": "eval_loss",
    "eval_accuracy": "eval_accuracy",
    "perplexity": "eval_perplexity",
}


class ExactTrainer(Trainer):
    """A Trainer whose evaluation is exact, given `compute_metrics=totals`."""

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
    loss, hits = np.sum(np.asarray(sums.predictions), axis=0)
    found = averages(float(loss), float(hits), float(np.sum(np.asarray(sums.label_ids))))
    return {AT_STEPS[name].removeprefix("eval_"): value for name, value in found.items()}


def averages(loss: float, hits: float, counted: float) -> dict[str, float]:
    """The metrics of so many tokens with this summed loss, and so many guessed right."""
    if not counted:
        raise ValueError("dataset: no token of the evaluation text is to be predicted")
    mean = loss / counted
    return {
        "eval_loss": mean,
        "eval_accuracy": hits / counted,
        "perplexity": perplexity(mean),
    }
