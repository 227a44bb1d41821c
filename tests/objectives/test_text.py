from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm.text import END, Source, corpus

from .conftest import MakeTrial

PYDOC = Source(
    path=None,
    text_column="text",
    validation_share=0.1,
    block_size=32,
    vocab_size=300,
    max_blocks=None,
)
DOCUMENTS = [f"The {n}th document, which says that {n} and {n} are {2 * n}." for n in range(60)]
MODEL = {"num_layers": 1, "hidden_size": 32, "num_heads": 2}


def text_of(source: Source, part: str) -> str:
    """A part of the corpus, decoded."""
    found = corpus(source)
    rows = (found.train if part == "train" else found.validation)["input_ids"]
    ids = [int(token) for row in rows for token in row]
    return str(found.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my [new] data"
    folder.mkdir()
    return folder


def write(path: Path, rows: list[Mapping[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_lines_of_a_text_file_stay_one_text(folder: Path) -> None:
    path = folder / "all of it.txt"
    path.write_text("\n".join(DOCUMENTS), encoding="utf-8")
    source = replace(PYDOC, path=path)
    assert "\n".join(DOCUMENTS).startswith(text_of(source, "train"))
    assert text_of(source, "validation") in "\n".join(DOCUMENTS)


def test_documents_of_a_jsonl_file_are_told_apart(folder: Path) -> None:
    path = write(folder / "train.jsonl", [{"body": text, "id": 1} for text in DOCUMENTS])
    text = text_of(replace(PYDOC, path=path, text_column="body"), "train")
    assert text.startswith(DOCUMENTS[0] + END + DOCUMENTS[1] + END)


@pytest.mark.parametrize("name", ["a text.txt", "some documents.jsonl"])
def test_a_model_trains_on_a_file_of_ones_own(
    name: str, folder: Path, make_trial: MakeTrial
) -> None:
    path = write(folder / name, [{"text": text} for text in DOCUMENTS])
    trial = make_trial(
        {"training": {"learning_rate": 1e-2}},
        {
            "dataset": {"path": str(path), "block_size": 16, "vocab_size": 300},
            "model": MODEL,
            "training": {"max_steps": 10, "eval_steps": 5},
        },
    )
    causal_lm.objective(trial)
    assert trial.values[10] < trial.values[5]


def test_training_ends_where_validation_begins() -> None:
    train, validation = text_of(PYDOC, "train"), text_of(PYDOC, "validation")
    assert len(validation) == pytest.approx(0.1 * len(train + validation), rel=0.01)
    assert validation[:2000] not in train


def test_one_text_without_lines_is_split_too(folder: Path) -> None:
    path = folder / "one-line.txt"
    path.write_text("word and word " * 1000, encoding="utf-8")
    found = corpus(replace(PYDOC, path=path))
    assert len(found.train) > 5 * len(found.validation) > 0


def test_max_blocks_counts_both_parts() -> None:
    found = corpus(replace(PYDOC, max_blocks=50))
    assert (len(found.train), len(found.validation)) == (45, 5)


def test_a_block_is_as_long_as_it_is_told() -> None:
    assert {len(row) for row in corpus(replace(PYDOC, max_blocks=50)).train["input_ids"]} == {32}


def test_the_same_source_is_read_once_and_gives_the_same_tokens() -> None:
    first = corpus(PYDOC)
    assert corpus(replace(PYDOC)) is first
    corpus.cache_clear()
    again = corpus(PYDOC)
    assert again is not first
    assert again.tokenizer.to_str() == first.tokenizer.to_str()
    assert again.train.data.equals(first.train.data)


def test_any_byte_can_be_encoded() -> None:
    tokenizer = corpus(PYDOC).tokenizer
    text = "naïve \N{SNOWMAN} \x00 文字\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", "a,b", r"data.csv: must be a .txt or .jsonl file"),
        ("none.txt", "", "there is no text in it"),
        ("short.txt", "too short", "the training text has .* less than one block of 32"),
        ("bad.jsonl", '{"text": "a"}\n\n{"text"\n', r"bad.jsonl:3: not JSON"),
        ("other.jsonl", '{"txt": "a"}', r"other.jsonl:1: .* 'text'; .* may be one of txt"),
        ("number.jsonl", '{"text": 3}', r"number.jsonl:1: no text in the field 'text'"),
        ("list.jsonl", '["a"]', r"list.jsonl:1: no text in the field 'text'"),
        ("latin.txt", "caf\udce9", r"latin.txt: 'utf-8' codec can't decode"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    name: str, content: str, message: str, folder: Path
) -> None:
    (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        corpus(replace(PYDOC, path=folder / name))


def test_a_file_that_is_not_there_is_named_in_full() -> None:
    with pytest.raises(ValueError, match=rf"{Path.cwd()}/no such file.txt: .*No such file"):
        corpus(replace(PYDOC, path=Path("no such file.txt")))
