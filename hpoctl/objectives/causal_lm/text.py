"""The text of a sweep: read it, train a tokenizer on it, cut it into blocks of tokens.

Runs in the worker before the fork, so it starts no threads, and keeps everything in memory: any
number of workers may read the same file at once. It knows no model, no trial and no sweep file.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.values import check_names, share, whole

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

END = "<|endoftext|>"  # GPT-2's own mark between documents; token 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which text, and how it is cut."""

    path: Path | None  # None is the builtin text
    text_column: str
    validation_share: float  # the last part of the text, by characters
    block_size: int  # tokens
    vocab_size: int  # at most: a short text has fewer distinct tokens
    max_blocks: int | None  # for training and validation together


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Rows of `input_ids`, each one block; the validation text is none of the training text."""

    tokenizer: Tokenizer
    train: Dataset
    validation: Dataset


def read_source(dataset: Mapping[str, object]) -> Source:
    """The group `dataset` as a value, defaults filled in. Raises ValueError."""
    check_names(dataset, ("builtin", *(key.name for key in dataclasses.fields(Source))), "dataset.")
    if ("path" in dataset) == ("builtin" in dataset):
        raise ValueError("dataset: give either 'path: file.jsonl' or 'builtin: pydoc'")
    if dataset.get("builtin", "pydoc") != "pydoc":
        raise ValueError(f"dataset.builtin: {dataset['builtin']!r} is not known; known: pydoc")
    limit = dataset.get("max_blocks")
    return Source(
        path=Path(str(dataset["path"])).expanduser() if "path" in dataset else None,
        text_column=str(dataset.get("text_column", "text")),
        validation_share=share("dataset.validation_share", dataset.get("validation_share", 0.1)),
        block_size=whole("dataset.block_size", dataset.get("block_size", 64), least=2),
        vocab_size=whole("dataset.vocab_size", dataset.get("vocab_size", 2000), least=257),
        max_blocks=None if limit is None else whole("dataset.max_blocks", limit, least=2),
    )


# The one piece of state in this module, and the reason for preparing at all: what the worker has
# read before the fork, each child finds here instead of reading it again.
@functools.cache
def corpus(source: Source) -> Corpus:
    """The text of `source`, tokenised; the same source gives the same tokens.

    Raises ValueError where the text cannot be read or is too short.
    """
    rows, documents = _read(source)
    train, validation = _split(rows, source.validation_share)
    tokenizer = _tokenizer(train, source.vocab_size, documents=documents)
    limits: tuple[int | None, int | None] = (None, None)
    if source.max_blocks is not None:
        held_out = max(1, round(source.max_blocks * source.validation_share))
        limits = source.max_blocks - held_out, held_out
    return Corpus(
        tokenizer=tokenizer,
        train=_blocks("training", train, tokenizer, source.block_size, limits[0]),
        validation=_blocks("validation", validation, tokenizer, source.block_size, limits[1]),
    )


def _read(source: Source) -> tuple[list[str], bool]:
    """The text in rows, and whether each row is a document of its own."""
    # Not datasets.load_dataset: it takes a name with brackets for a pattern, writes a cache that
    # workers would share, and cannot say in which line a field is missing.
    if source.path is None:
        from pydoc_data.topics import topics

        return [topics[name] for name in sorted(topics)], True
    readers = {".txt": _read_lines, ".jsonl": _read_jsonl}
    if source.path.suffix not in readers:
        known = " or ".join(readers)
        raise ValueError(f"dataset.path: {source.path}: must be a {known} file")
    try:
        rows = readers[source.path.suffix](source.path, source.text_column)
    except (OSError, UnicodeDecodeError) as wrong:
        raise ValueError(f"dataset.path: {source.path.absolute()}: {wrong}") from wrong
    return rows, source.path.suffix == ".jsonl"


def _read_lines(path: Path, _: str) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True)


def _read_jsonl(path: Path, column: str) -> list[str]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as wrong:
                raise ValueError(f"{path}:{number}: not JSON: {wrong}") from wrong
            if not isinstance(row, dict) or not isinstance(row.get(column), str):
                keys = [str(key) for key in row] if isinstance(row, dict) else []
                close = difflib.get_close_matches(column, keys, n=1) or keys
                hint = f"; dataset.text_column may be one of {', '.join(close)}" if close else ""
                raise ValueError(f"{path}:{number}: no text in the field '{column}'{hint}")
            rows.append(row[column])
    return rows


def _split(rows: Sequence[str], share: float) -> tuple[list[str], list[str]]:
    """The first rows and the last `share` of them, by characters; one row may be cut in two."""
    left = round(sum(map(len, rows)) * (1 - share))
    for i, row in enumerate(rows):
        if len(row) >= left:
            return [*rows[:i], row[:left]], [row[left:], *rows[i + 1 :]]
        left -= len(row)
    raise ValueError("dataset: there is no text in it")


def _tokenizer(rows: Sequence[str], vocab_size: int, *, documents: bool) -> Tokenizer:
    """A byte-level BPE (Radford et al. 2019) that knows every byte; ends documents with END."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows, trainer)
    if documents:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, 0)]
        )
    return tokenizer


def _blocks(
    part: str, rows: Sequence[str], tokenizer: Tokenizer, size: int, limit: int | None
) -> Dataset:
    """The tokens of all rows in a line, cut into blocks; what is left over is dropped."""
    import numpy as np
    from datasets import Dataset

    tokens = itertools.islice(_tokens(rows, tokenizer), None if limit is None else limit * size)
    ids = np.fromiter(tokens, dtype=np.int32)
    count = len(ids) // size
    if not count:
        raise ValueError(
            f"dataset: the {part} text has {len(ids)} tokens, less than one block of {size}:"
            " give more text, a smaller block_size or another validation_share"
        )
    # Dataset.map would do the same, but its progress bar leaves a thread, which no fork survives.
    blocks = Dataset.from_dict({"input_ids": ids[: count * size].reshape(count, size)})
    return blocks.with_format("torch")


def _tokens(rows: Sequence[str], tokenizer: Tokenizer) -> Iterator[int]:
    for start in range(0, len(rows), 256):
        for encoding in tokenizer.encode_batch(list(rows[start : start + 256])):
            yield from encoding.ids
