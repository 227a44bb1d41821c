"""Several models whose predictions are averaged, exact to the token.

Imports torch and transformers at once, so import it inside functions. What is kept of all of the
vocabulary are the averaged predictions of one batch and those of one member: neither more text nor
more members take more. Where a GPU cannot hold all members they take turns on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from hpoctl.objectives.causal_lm import trained
from hpoctl.objectives.causal_lm.evaluation import averages
from hpoctl.objectives.causal_lm.text import Corpus, collate
from hpoctl.objectives.causal_lm.tokens import token_sums

_ROWS = 16  # of a batch, at most
_BATCH = 2**29  # bytes of its predictions, unless a single row has more
_ROOM = 0.5  # of what a GPU has free, for the members; the rest is for what they compute


def member(folder: str, text: Corpus) -> PreTrainedModel:
    """A saved model, on the host. Raises ValueError where it cannot read this text."""
    found = trained.load("models", folder)
    if found.tokenizer.get_vocab() != text.tokenizer.get_vocab():
        raise ValueError(
            f"models: {folder} has another tokenizer than the data, so its probabilities are of"
            " other tokens: average models of one tokenizer only"
        )
    longest = max(len(row["input_ids"]) for row in text.validation)
    if found.longest is not None and found.longest < longest:
        raise ValueError(
            f"models: {folder} reads {found.longest} tokens, and a row of the data has {longest}:"
            " give a smaller dataset.max_length"
        )
    return found.llm


def evaluate(
    members: Sequence[PreTrainedModel], text: Corpus
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Loss, accuracy and perplexity on the held-out text: averaged, and of each member."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stay = _fit(members, device)
    totals = torch.zeros(len(members) + 1, 3, dtype=torch.float64)
    with torch.inference_mode():
        for batch in _batches(text, max(llm.config.vocab_size for llm in members)):
            totals += _sums(members, batch, device, stay=stay)
    together, *own = (averages(*row) for row in totals.tolist())
    return together, own


def _fit(members: Sequence[PreTrainedModel], device: torch.device) -> bool:
    """Whether all members may stay on the device at once."""
    if device.type == "cpu":
        return True
    needed = sum(tensor.nbytes for llm in members for tensor in llm.state_dict().values())
    free, _ = torch.cuda.mem_get_info(device)
    return bool(needed < _ROOM * free)


def _batches(text: Corpus, vocabulary: int) -> Iterator[dict[str, Tensor]]:
    rows = list(text.validation)
    longest = max(len(row["input_ids"]) for row in rows)
    size = max(1, min(_ROWS, _BATCH // (longest * vocabulary * torch.float32.itemsize)))
    for first in range(0, len(rows), size):
        yield collate(rows[first : first + size])


def _sums(
    members: Sequence[PreTrainedModel],
    batch: Mapping[str, Tensor],
    device: torch.device,
    *,
    stay: bool,
) -> Tensor:
    """Loss, hits and tokens, summed over a batch: of all together, then of each member."""
    given = {key: value.to(device) for key, value in batch.items()}
    labels = given.pop("labels")
    together, own = None, []
    for llm in members:
        _move(llm, device)
        logits = llm(**given, use_cache=False).logits.float()
        if not stay:
            _move(llm, torch.device("cpu"))
        own.append(token_sums(logits, labels).sum(0))
        known = torch.log_softmax(logits, dim=-1)
        together = known if together is None else _log_of_sum(together, known)
    assert together is not None, "there are members"
    # Not divided by their number: a constant on all logits changes nothing.
    return torch.stack([token_sums(together, labels).sum(0), *own]).cpu()


def _move(llm: torch.nn.Module, device: torch.device) -> None:
    llm.to(device)


def _log_of_sum(one: Tensor, other: Tensor) -> Tensor:
    """The sum of two predictions, both as logarithms: what is nearly impossible is not lost.

    Models of one tokenizer may have unused places at the end of their vocabulary, and not alike.
    """
    widest = max(one.shape[-1], other.shape[-1])
    return torch.logaddexp(
        *(functional.pad(log, (0, widest - log.shape[-1]), value=-math.inf) for log in (one, other))
    )
