"""The group `dataset` as values: which text, how it is split and kept, and how it is cut.

What is in `Source` decides the tokens, which are made once for all trials. What is in `Cut` only
picks from them, so it may be searched.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hpoctl.objectives.causal_lm.values import check_names, share, whole

PARTS = ("train", "validation", "test")
_ORIGINS = ("builtin", "path", "hub", "train")
_COLUMNS = ("text_column", "prompt_column", "completion_column", "messages_column")
_CUT = ("max_length", "block_size", "packing", "sample_share")
_KNOWN = (
    *("builtin", "path", "train", "validation", "test", "hub", "config", "revision"),
    *(*_COLUMNS, "validation_share", "test_share", "seed", "vocab_size", "cache"),
    *(*_CUT, "max_blocks", "train_on", "evaluate_on"),
)


class Kind(StrEnum):
    """What a document is made of; its value is the key that names its first column."""

    TEXT = "text_column"
    PROMPT = "prompt_column"
    CHAT = "messages_column"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Which text, how it is split, and where its tokens are kept."""

    files: tuple[tuple[str, Path], ...]  # part -> file or folder; none for builtin and hub
    hub: str | None
    config: str | None
    revision: str | None
    kind: Kind
    columns: tuple[str, ...]
    validation_share: float  # by characters, of the training text, where that part is not given
    test_share: float
    seed: int  # of the split
    vocab_size: int  # at most, of a tokenizer that is trained: a short text has fewer tokens
    cache: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Which of the tokens a trial sees, and in rows of what shape."""

    max_length: int  # tokens
    packing: bool
    sample_share: float  # of the training documents
    seed: int  # of that sample
    max_blocks: tuple[int, int] | None  # rows at most, for training and for evaluation
    train_on_all: bool  # the validation part too
    evaluate_on: str


def check_searched(name: str) -> None:
    """Raises ValueError for what cannot stand in the search space."""
    check_names({name: None}, _KNOWN, "dataset.")
    if name not in _CUT:
        raise ValueError(f"dataset.{name}: cannot be searched; can be: {', '.join(_CUT)}")


def read_source(
    fixed: Mapping[str, object], searched: Mapping[str, object] | None = None
) -> tuple[Source, Cut]:
    """The group `dataset`, defaults filled in; `searched` wins. Raises ValueError."""
    check_names(fixed, _KNOWN, "dataset.")
    for name in searched or {}:
        check_searched(name)
    if searched and {"max_length", "block_size"} & set(searched):  # of the two names, the searched
        fixed = {name: fixed[name] for name in fixed if name not in ("max_length", "block_size")}
    dataset = {**fixed, **(searched or {})}
    kind, columns = _columns(dataset)
    source, cut = _source(dataset, kind, columns), _cut(dataset, kind)
    for part, path in source.files:
        if not cut.packing and path.suffix == ".txt" and not path.is_dir():
            raise ValueError(
                f"dataset.packing: false needs documents, but {part} is one running text: {path}"
            )
    return source, cut


def _source(dataset: Mapping[str, object], kind: Kind, columns: tuple[str, ...]) -> Source:
    files = _files(dataset)
    own = dict(files)
    for part in ("validation", "test"):
        if part in own and f"{part}_share" in dataset:
            raise ValueError(f"dataset: give either {part} or {part}_share")
    shares = [
        share(f"dataset.{name}_share", dataset.get(f"{name}_share", usual))
        for name, usual in (("validation", 0.1), ("test", 0.0))
    ]
    if sum(shares) >= 1:
        raise ValueError("dataset: validation_share and test_share leave nothing to train on")
    return Source(
        files=files,
        hub=_word(dataset, "hub"),
        config=_word(dataset, "config"),
        revision=_word(dataset, "revision"),
        kind=kind,
        columns=columns,
        validation_share=shares[0],
        test_share=shares[1],
        seed=whole("dataset.seed", dataset.get("seed", 0), least=0),
        vocab_size=whole("dataset.vocab_size", dataset.get("vocab_size", 2000), least=257),
        cache=_cache(dataset),
    )


def _files(dataset: Mapping[str, object]) -> tuple[tuple[str, Path], ...]:
    if sum(name in dataset for name in _ORIGINS) != 1:
        raise ValueError(
            "dataset: give one of 'path: file.jsonl', 'train: file.jsonl', 'hub: name' and"
            " 'builtin: pydoc'"
        )
    if dataset.get("builtin", "pydoc") != "pydoc":
        raise ValueError(f"dataset.builtin: {dataset['builtin']!r} is not known; known: pydoc")
    own = "path" in dataset or "train" in dataset
    for name in ("validation", "test") if not own else ("config", "revision"):
        if name in dataset and "hub" not in dataset:
            raise ValueError(f"dataset.{name}: goes with {'hub' if own else 'path or train'} only")
    if "hub" in dataset and {"validation", "test"} & set(dataset):
        raise ValueError("dataset: with hub, validation and test are the splits of that data set")
    named = (("train", "path"), *((part, part) for part in PARTS))
    return tuple(
        (part, Path(str(dataset[name])).expanduser().absolute())
        for part, name in named
        if name in dataset
    )


def _columns(dataset: Mapping[str, object]) -> tuple[Kind, tuple[str, ...]]:
    given = [kind for kind in Kind if kind in dataset]
    if len(given) > 1:
        raise ValueError(f"dataset: {' and '.join(given)} exclude each other")
    kind = given[0] if given else Kind.TEXT
    if "completion_column" in dataset and kind is not Kind.PROMPT:
        raise ValueError("dataset.completion_column: needs prompt_column")
    first = str(dataset.get(kind, "text"))
    if kind is Kind.PROMPT:
        return kind, (first, str(dataset.get("completion_column", "completion")))
    return kind, (first,)


def _cut(dataset: Mapping[str, object], kind: Kind) -> Cut:
    if {"max_length", "block_size"} <= set(dataset):
        raise ValueError("dataset: max_length and block_size are two names of one thing: give one")
    name = "block_size" if "block_size" in dataset else "max_length"
    sampled, packing = dataset.get("sample_share", 1.0), dataset.get("packing", kind is Kind.TEXT)
    if not isinstance(packing, bool):
        raise ValueError(f"dataset.packing: is {packing!r}, but must be true or false")
    if (sampled is True or sampled != 1) and not share("dataset.sample_share", sampled):
        raise ValueError("dataset.sample_share: is 0, but must be above it")
    train_on = _one_of(dataset, "train_on", ("train", "all"))
    evaluate_on = _one_of(dataset, "evaluate_on", ("validation", "test"))
    if train_on == "all" and evaluate_on != "test":
        raise ValueError(
            "dataset.train_on: all trains on the validation part too: add evaluate_on: test"
        )
    return Cut(
        max_length=whole(f"dataset.{name}", dataset.get(name, 128), least=2),
        packing=packing,
        sample_share=float(str(sampled)),
        seed=whole("dataset.seed", dataset.get("seed", 0), least=0),
        max_blocks=_limits(dataset),
        train_on_all=train_on == "all",
        evaluate_on=evaluate_on,
    )


def _limits(dataset: Mapping[str, object]) -> tuple[int, int] | None:
    if dataset.get("max_blocks") is None:
        return None
    limit = whole("dataset.max_blocks", dataset["max_blocks"], least=2)
    held_out = share("dataset.validation_share", dataset.get("validation_share", 0.1))
    held_out = max(1, round(limit * held_out))
    return limit - held_out, held_out


def _one_of(dataset: Mapping[str, object], name: str, known: tuple[str, ...]) -> str:
    value = str(dataset.get(name, known[0]))
    if value not in known:
        raise ValueError(f"dataset.{name}: is '{value}', but must be {' or '.join(known)}")
    return value


def _word(dataset: Mapping[str, object], name: str) -> str | None:
    value = dataset.get(name)
    return None if value is None else str(value)


def _cache(dataset: Mapping[str, object]) -> Path | None:
    """`cache`, else HPOCTL_CACHE, else XDG_CACHE_HOME/hpoctl, else runs/.tokens of the workdir."""
    # Not ~/.cache: homes are small and not everywhere mounted, but all workers see the workdir.
    given = dataset.get("cache")
    if given is False:
        return None
    if given is None:
        xdg = os.environ.get("XDG_CACHE_HOME")
        own = str(Path(xdg) / "hpoctl") if xdg else "runs/.tokens"
        given = os.environ.get("HPOCTL_CACHE") or own
    return Path(str(given)).expanduser().absolute()
