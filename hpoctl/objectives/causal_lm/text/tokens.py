"""The tokens of a part of the text, document by document, as an Arrow table of one piece."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text.chat import IGNORED, encoded
from hpoctl.objectives.causal_lm.text.documents import Document, Part
from hpoctl.objectives.causal_lm.text.source import Kind
from hpoctl.objectives.causal_lm.text.split import pieces

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast

_BATCH = 256  # documents
_LONG = 1 << 20  # characters: the tokenizer takes gigabytes for longer ones

_Encoded = tuple[list[int], list[int] | None]  # tokens, and labels where they are not the same


def texts(part: Part, kind: Kind) -> Iterator[str]:
    """What a tokenizer is trained on."""
    for document in part.documents:
        if kind is Kind.CHAT:
            yield from (f"{said['role']}:\n{said['content']}" for said in json.loads(document[0]))
        else:
            yield from document


def encode(part: Part, kind: Kind, tokenizer: PreTrainedTokenizerFast) -> pa.Table:
    """`input_ids`, and of prompts and chats `labels`: a row for each document.

    A document begins and ends as the tokenizer marks it; running text does neither.
    """
    import numpy as np
    import pyarrow as pa

    lengths: list[int] = []
    columns: dict[str, list[np.ndarray]] = {"input_ids": [], "labels": []}
    for start in range(0, len(part.documents), _BATCH):
        ready = _batch(
            part.documents[start : start + _BATCH], kind, tokenizer, marked=not part.running
        )
        lengths.extend(len(ids) for ids, _ in ready)
        for name, at in (("input_ids", 0), ("labels", 1)):
            flat = itertools.chain.from_iterable(row[at] or () for row in ready)
            columns[name].append(np.fromiter(flat, dtype=np.int32))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.table(
        {
            name: pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(values)))
            for name, values in columns.items()
            if name == "input_ids" or kind is not Kind.TEXT
        }
    )


def _batch(
    documents: Sequence[Document], kind: Kind, tokenizer: PreTrainedTokenizerFast, *, marked: bool
) -> list[_Encoded]:
    if kind is Kind.CHAT:
        return [encoded(tokenizer, chat) for (chat,) in documents]
    begin, end = _marks(tokenizer) if marked else ([], [])
    columns = [_plain(column, tokenizer) for column in zip(*documents, strict=True)]
    if kind is Kind.TEXT:
        return [(_closed(begin + ids, end), None) for ids in columns[0]]
    found: list[_Encoded] = []
    for prompt, completion in zip(*columns, strict=True):
        learned = _closed(completion, end)
        masked = [IGNORED] * len(begin + prompt)
        found.append((begin + prompt + learned, masked + learned))
    return found


def _plain(column: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The tokens of each text, without marks of a beginning or an end."""
    parts = [pieces(text, _LONG) for text in column]
    flat = list(itertools.chain.from_iterable(parts))
    backend = tokenizer.backend_tokenizer
    found = iter(backend.encode_batch_fast(flat, add_special_tokens=False))
    return [[token for _ in part for token in next(found).ids] for part in parts]


def _marks(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The tokens before and after a document: what an empty text is, and the token of its end."""
    end = tokenizer.eos_token_id
    begin = list(tokenizer.backend_tokenizer.encode("").ids)
    if begin and begin[-1] == end and (len(begin) > 1 or end != tokenizer.bos_token_id):
        begin.pop()
    return begin, [] if end is None else [int(end)]


def _closed(ids: list[int], end: list[int]) -> list[int]:
    return ids if ids[-1:] == end else ids + end
