"""Rows to a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text.chat import IGNORED

if TYPE_CHECKING:
    from torch import Tensor


def collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of rows, the shorter ones padded; the model itself shifts the labels by one token."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [row["input_ids"] for row in rows]
    labels = [row["labels"] for row in rows if "labels" in row]
    if len({len(row) for row in ids}) == 1:
        stacked = torch.stack(ids)
        return {
            "input_ids": stacked,
            "labels": torch.stack(labels) if labels else stacked.clone(),
        }
    # Which token fills up is all the same: it is neither attended to nor learned.
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels or ids, batch_first=True, padding_value=IGNORED),
    }
