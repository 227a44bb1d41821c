"""What a model makes of each token: loss, hits and KL divergence, summed row by row.

Imports torch at once, so import it inside functions. A batch's logits are never copied whole: a row
at a time becomes float32, and nothing waits for a GPU. Labels of -100 count for nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100  # torch's own mark of a label that is not to be predicted


def token_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """For each row: the summed loss in nats, the tokens guessed right, the tokens to be guessed.

    `logits` (rows, length, vocabulary) and `labels` (rows, length) as a model takes them: what it
    says at a position is held against the label of the next one. Gives (rows, 3) in float64.
    """
    rows = []
    for guesses, truth in zip(logits[:, :-1], labels[:, 1:], strict=True):
        losses = functional.cross_entropy(
            guesses.float(), truth, ignore_index=IGNORED, reduction="none"
        )
        hits = guesses.argmax(dim=-1) == truth  # no guess is -100
        counted = truth != IGNORED
        rows.append(torch.stack([losses.double().sum(), hits.sum(), counted.sum()]))
    return torch.stack(rows)


def kl_sums(teacher: Tensor, model: Tensor, labels: Tensor) -> Tensor:
    """For each row: KL(teacher || model) in nats, summed over the tokens that have a label.

    Both are logits (rows, length, vocabulary). Gives (rows,) in float64.
    """
    rows = []
    for known, learnt, truth in zip(teacher[:, :-1], model[:, :-1], labels[:, 1:], strict=True):
        log_p = functional.log_softmax(known.float(), dim=-1)
        log_q = functional.log_softmax(learnt.float(), dim=-1)
        p = log_p.exp()
        # Where p is 0 the term is 0, whatever its logarithm.
        terms = (p * (log_p - log_q)).masked_fill(p == 0, 0)
        divergences = terms.sum(dim=-1).masked_fill(truth == IGNORED, 0)
        rows.append(divergences.double().sum())
    return torch.stack(rows)


def perplexity(loss: float) -> float:
    """e to the power of the loss; infinite where that is no float any more."""
    return math.exp(loss) if loss < 700 else math.inf
