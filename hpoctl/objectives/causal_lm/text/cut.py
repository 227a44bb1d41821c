"""Rows for a trial, cut from tokens that are kept: cheap, so that each trial may cut its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text.chat import IGNORED
from hpoctl.objectives.causal_lm.text.source import Cut
from hpoctl.trial import Infeasible

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows as views of the arrays below: where each begins, and how long it is."""

    columns: dict[str, NDArray[np.int32]]
    begins: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def at(self, chosen: NDArray[np.int64] | NDArray[np.bool_] | slice) -> _Rows:
        return replace(self, begins=self.begins[chosen], lengths=self.lengths[chosen])


def cut(
    part: str, tables: Sequence[pa.Table], how: Cut, *, limit: int | None, share: float = 1.0
) -> Dataset:
    """The documents of the tables as rows that torch can use; a row has something to learn.

    Raises Infeasible where nothing is left: another cut may leave something.
    """
    documents = _documents(tables)
    if share < 1:
        documents = documents.at(_sample(len(documents.begins), share, how.seed))
    rows = _packed(documents, how.max_length) if how.packing else _one_each(documents, how)
    rows = rows.at(_learnable(rows)).at(slice(limit))
    if not len(rows.begins):
        raise Infeasible(_nothing(part, int(documents.lengths.sum()), how))
    return _dataset(rows)


def _documents(tables: Sequence[pa.Table]) -> _Rows:
    """Views of the tables' own memory, or of the file that it is mapped to; of several, a copy."""
    import numpy as np

    chunks = [table.combine_chunks() for table in tables]
    columns = {
        name: _joined([chunk[name].chunk(0).values.to_numpy() for chunk in chunks])
        for name in chunks[0].column_names
    }
    ends = [chunk["input_ids"].chunk(0).offsets.to_numpy() for chunk in chunks]
    lengths = np.concatenate([np.diff(offsets) for offsets in ends])
    return _Rows(columns=columns, begins=np.cumsum(lengths) - lengths, lengths=lengths)


def _joined(arrays: list[NDArray[np.int32]]) -> NDArray[np.int32]:
    import numpy as np

    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _sample(count: int, share: float, seed: int) -> NDArray[np.int64]:
    """Documents by number, in their order; a smaller share is part of a larger one."""
    import numpy as np

    # RandomState's stream is frozen for ever, that of default_rng may change with numpy.
    order = np.random.RandomState(seed % 2**32).permutation(count)
    return np.sort(order[: max(1, round(share * count))])


def _packed(documents: _Rows, length: int) -> _Rows:
    """All tokens in a line, cut into blocks; what is left over is dropped."""
    import numpy as np

    documents = _gathered(documents)
    count = int(documents.lengths.sum()) // length
    blocks = np.arange(count, dtype=np.int64) * length
    return _Rows(columns=documents.columns, begins=blocks, lengths=np.full_like(blocks, length))


def _one_each(documents: _Rows, how: Cut) -> _Rows:
    import numpy as np

    return replace(documents, lengths=np.minimum(documents.lengths, how.max_length))


def _learnable(rows: _Rows) -> NDArray[np.bool_]:
    """Rows with a label from the second token on: nothing predicts the first one."""
    import numpy as np

    learned = rows.lengths > 1
    if "labels" in rows.columns:
        counts = np.cumsum(rows.columns["labels"] != IGNORED)
        first, last = rows.begins, rows.begins + np.maximum(rows.lengths, 1) - 1
        learned &= counts[last] > counts[first]
    return learned


def _gathered(rows: _Rows) -> _Rows:
    """The same rows one after the other; a copy only where they are not."""
    import numpy as np

    begins = np.cumsum(rows.lengths) - rows.lengths
    whole = int(rows.lengths.sum())
    if np.array_equal(begins, rows.begins):
        return replace(rows, columns={name: held[:whole] for name, held in rows.columns.items()})
    index = np.repeat(rows.begins - begins, rows.lengths) + np.arange(whole)
    columns = {name: held[index] for name, held in rows.columns.items()}
    return _Rows(columns=columns, begins=begins, lengths=rows.lengths)


def _dataset(rows: _Rows) -> Dataset:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    rows = _gathered(rows)
    offsets = pa.array(np.append(rows.begins, rows.lengths.sum()))
    table = pa.table(
        {
            name: pa.LargeListArray.from_arrays(offsets, pa.array(values))
            for name, values in rows.columns.items()
        }
    )
    # A fingerprint of our own: datasets' would read all tokens, and nothing is cached by it.
    return Dataset(table, fingerprint="hpoctl").with_format("torch")


def _nothing(part: str, tokens: int, how: Cut) -> str:
    if how.packing:
        return (
            f"dataset: the {part} text has {tokens} tokens, less than one block of"
            f" {how.max_length}: give more text, a smaller max_length or another validation_share"
        )
    return (
        f"dataset: no row of the {part} text has anything to learn in its first {how.max_length}"
        " tokens: give a larger max_length"
    )
