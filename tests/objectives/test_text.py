from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest

from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import text
from hpoctl.objectives.causal_lm.places import Place
from hpoctl.objectives.causal_lm.text import END, Corpus, collate, corpus, read_source
from hpoctl.trial import Infeasible

from .conftest import MakeTrial

DOCUMENTS = [f"The {n}th document, which says that {n} and {n} are {2 * n}." for n in range(60)]
TOPICS = [topics[name] for name in sorted(topics)]
MODEL = {"num_layers": 1, "hidden_size": 32, "num_heads": 2}
SMALL: Mapping[str, object] = {"max_length": 32, "vocab_size": 300}
TALK = [
    [
        {"role": "user", "content": f"How much are {n} and {n}?"},
        {"role": "assistant", "content": f"That makes {2 * n}."},
        {"role": "user", "content": "Thanks."},
        {"role": "assistant", "content": f"Ask me again, {n} times."},
    ]
    for n in range(60)
]


def read(dataset: Mapping[str, object], pretrained: str | None = None) -> Corpus:
    source, how = read_source({**SMALL, **dataset})
    place = None if pretrained is None else Place(name=pretrained, source=pretrained)
    return corpus(source, how, place)


def tokens_of(rows: Any, column: str = "input_ids") -> list[int]:
    return [int(token) for row in rows[column] for token in row]


def text_of(found: Corpus, part: str = "train") -> str:
    """A part of the corpus, decoded."""
    return str(found.tokenizer.decode(tokens_of(getattr(found, part))))


def learned(found: Corpus) -> str:
    """What of the training text a loss is computed of, decoded."""
    labels = tokens_of(found.train, "labels")
    return str(found.tokenizer.decode([token for token in labels if token != -100]))


def documents_of(found: Corpus, part: str) -> set[str]:
    return set(text_of(found, part).split(END)) - {""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my [new] data"
    folder.mkdir()
    return folder


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        lines.writeheader()
        lines.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    return path


WRITERS: Mapping[str, Callable[[Path, Sequence[Mapping[str, object]]], Path]] = {
    ".jsonl": write,
    ".csv": write_csv,
    ".tsv": write_csv,
    ".parquet": write_parquet,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(suffix: str, folder: Path) -> None:
    rows = [{"body": text, "id": n} for n, text in enumerate(TOPICS[:9])]
    path = WRITERS[suffix](folder / f"some documents{suffix}", rows)
    found = read({"train": str(path), "validation": str(path), "text_column": "body"})
    assert "".join(text + END for text in TOPICS[:9]).startswith(text_of(found))


def test_files_of_a_folder_are_read_in_the_order_of_their_names(folder: Path) -> None:
    for n in (2, 1, 3):
        (folder / f"{n}.txt").write_text(DOCUMENTS[n], encoding="utf-8")
    write(folder / "more" / "4.jsonl", [{"text": DOCUMENTS[4]}])
    (folder / "README.md").write_text("not this", encoding="utf-8")
    (folder / ".hidden.txt").write_text("nor this", encoding="utf-8")
    found = read({"train": str(folder), "validation": str(folder), "max_length": 2})
    whole = "".join(DOCUMENTS[n] + END for n in (1, 2, 3, 4))
    assert whole.startswith(text_of(found))
    assert DOCUMENTS[4] in text_of(found)


def test_lines_of_a_text_file_stay_one_text(folder: Path) -> None:
    path = folder / "all of it.txt"
    path.write_text("".join(TOPICS[:9]), encoding="utf-8")
    found = read({"path": str(path)})
    assert "".join(TOPICS[:9]).startswith(text_of(found))
    assert text_of(found, "validation") in "".join(TOPICS[:9])
    assert text_of(found, "validation")[:200] not in text_of(found)


def test_one_text_without_lines_is_split_too(folder: Path) -> None:
    path = folder / "one-line.txt"
    path.write_text("word and word " * 1000, encoding="utf-8")
    found = read({"path": str(path), "test_share": 0.1})
    assert found.test is not None
    assert len(found.train) > 5 * len(found.validation) > 4 * len(found.test) > 0


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


def test_parts_have_their_shares_and_no_document_in_common(folder: Path) -> None:
    rows = [{"text": DOCUMENTS[n % 50]} for n in range(300)]  # each of 50 six times
    path = write(folder / "many.jsonl", rows)
    found = read(
        {"path": str(path), "packing": False, "validation_share": 0.2, "test_share": 0.1}
        | {"max_length": 256}
    )
    train, validation, test = (
        documents_of(found, part) for part in ("train", "validation", "test")
    )
    assert (len(train), len(validation), len(test)) == (35, 10, 5)
    assert train | validation | test == set(DOCUMENTS[:50])


def test_a_document_stays_in_its_part_when_others_are_added(folder: Path) -> None:
    few = write(folder / "few.jsonl", [{"text": text} for text in DOCUMENTS[:50]])
    more = write(folder / "more.jsonl", [{"text": text} for text in reversed(DOCUMENTS)])
    how = {"packing": False, "validation_share": 0.2, "max_length": 256}
    before, after = (
        documents_of(read({"path": str(path), **how}), "validation") for path in (few, more)
    )
    assert len(before & after) >= 8
    other = documents_of(read({"path": str(few), **how, "seed": 1}), "validation")
    assert other != before


def test_files_for_each_part_are_taken_as_they_are(folder: Path) -> None:
    parts = {"train": DOCUMENTS[:40], "validation": DOCUMENTS[40:50], "test": DOCUMENTS[50:]}
    files = {
        part: str(write(folder / f"{part}.jsonl", [{"text": text} for text in said]))
        for part, said in parts.items()
    }
    found = read({**files, "packing": False, "max_length": 256})
    assert all(documents_of(found, part) == set(said) for part, said in parts.items())
    final = read(
        {**files, "packing": False, "max_length": 256, "train_on": "all", "evaluate_on": "test"}
    )
    assert documents_of(final, "train") == set(DOCUMENTS[:50])
    assert documents_of(final, "validation") == set(DOCUMENTS[50:])
    assert final.tokenizer.get_vocab() == found.tokenizer.get_vocab()


def test_of_a_prompt_nothing_is_learned(folder: Path) -> None:
    rows = [{"ask": f"{n} and {n}?", "answer": f" {2 * n}"} for n in range(60)]
    path = write(folder / "asked.jsonl", rows)
    found = read(
        {"train": str(path), "validation": str(path), "prompt_column": "ask"}
        | {"completion_column": "answer"}
    )
    assert text_of(found) == "".join(f"{row['ask']}{row['answer']}{END}" for row in rows)
    assert learned(found) == "".join(f"{row['answer']}{END}" for row in rows)


def test_of_a_chat_the_assistant_is_learned(folder: Path) -> None:
    path = write(folder / "talk.jsonl", [{"chat": talk} for talk in TALK])
    found = read(
        {"train": str(path), "validation": str(path), "messages_column": "chat"}
        | {"max_length": 512}
    )
    said = [turn["content"] for talk in TALK for turn in talk if turn["role"] == "assistant"]
    assert learned(found) == "".join(f"{words}{END}\n" for words in said)
    assert text_of(found).startswith(f"user:\nHow much are 0 and 0?{END}\nassistant:\nThat")
    assert found.tokenizer.chat_template


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        # It says itself what an assistant generated: the words, not the mark behind them.
        (
            "{% for m in messages %}{{ m['role'] }}: {% if m['role'] == 'assistant' %}"
            "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}"
            "{% endif %}|{% endfor %}",
            "That makes 0.Ask me again, 0 times.",
        ),
        # It drops earlier answers, so what each message adds cannot be told: all is learned.
        (
            "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}{{ m['content'] }}|"
            "{% endif %}{% endfor %}",
            "How much are 0 and 0?|Thanks.|Ask me again, 0 times.|",
        ),
    ],
    ids=["generation", "rewrites"],
)
def test_a_template_tells_what_is_learned_or_all_is(
    template: str, expected: str, folder: Path
) -> None:
    model = read({"builtin": "pydoc"}).tokenizer
    model.chat_template = template
    try:
        model.save_pretrained(folder / "model")
    finally:
        model.chat_template = None
    path = write(folder / "talk.jsonl", [{"messages": TALK[0]}])
    found = read(
        {"train": str(path), "validation": str(path), "messages_column": "messages"}
        | {"max_length": 512},
        pretrained=str(folder / "model"),
    )
    assert learned(found) == expected


def test_the_tokenizer_of_a_pretrained_model_is_taken_as_it_is(folder: Path) -> None:
    from tokenizers import processors

    own = read({"builtin": "pydoc", "vocab_size": 500}).tokenizer
    own.add_special_tokens({"bos_token": "<s>"})
    own.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own.bos_token_id)]
    )
    own.pad_token = None
    own.save_pretrained(folder / "model")
    path = write(folder / "some.jsonl", [{"text": text} for text in DOCUMENTS])
    found = read({"path": str(path), "max_length": 256, "packing": False}, str(folder / "model"))
    assert found.tokenizer.get_vocab() == own.get_vocab()
    assert found.tokenizer.pad_token == END
    assert text_of(found).startswith("<s>")
    assert text_of(found).count("<s>") == text_of(found).count(END) == len(found.train)


def test_rows_are_blocks_or_documents(folder: Path) -> None:
    path = str(write(folder / "some.jsonl", [{"text": text} for text in DOCUMENTS]))
    files = {"train": path, "validation": path}
    packed, apart = read(files), read({**files, "packing": False, "max_length": 16})
    assert {len(row) for row in packed.train["input_ids"]} == {32}
    assert len(apart.train) == len(DOCUMENTS)
    assert all(
        DOCUMENTS[n].startswith(str(apart.tokenizer.decode(row)).removesuffix(END))
        for n, row in enumerate(apart.train["input_ids"])
    )
    assert max(len(row) for row in apart.train["input_ids"]) == 16


def test_max_blocks_counts_both_parts() -> None:
    found = read({"builtin": "pydoc", "max_blocks": 50})
    assert (len(found.train), len(found.validation)) == (45, 5)


def test_a_smaller_sample_is_part_of_a_larger_one_and_validation_stays(folder: Path) -> None:
    path = write(folder / "some.jsonl", [{"text": text} for text in DOCUMENTS])
    whole, half, fifth = (
        read({"path": str(path), "packing": False, "max_length": 256, "sample_share": share})
        for share in (1.0, 0.5, 0.2)
    )
    assert len(half.train) == round(0.5 * len(whole.train))
    assert documents_of(fifth, "train") < documents_of(half, "train") < documents_of(whole, "train")
    assert tokens_of(fifth.validation) == tokens_of(whole.validation)


def test_searched_cuts_tokenise_nothing_again(make_trial: MakeTrial) -> None:
    args = {
        "dataset": {"builtin": "pydoc", "vocab_size": 300, "block_size": 64, "max_blocks": 300},
        "model": MODEL,
        "training": {"max_steps": 2},
    }
    causal_lm.prepare(args)
    read_before = text._tokens.cache_info().misses
    searched = {"max_length": 16, "packing": False, "sample_share": 0.5}
    causal_lm.objective(make_trial({"dataset": searched}, args))
    assert text._tokens.cache_info().misses == read_before


def test_rows_where_nothing_is_left_to_learn_are_dropped(folder: Path) -> None:
    rows = [{"prompt": "why? " * n, "completion": "So."} for n in (1, 2, 500, 1, 2, 1, 2)]
    path = str(write(folder / "asked.jsonl", rows))
    found = read({"train": path, "validation": path, "prompt_column": "prompt"})
    assert len(found.train) == 6
    blocks = read({"train": path, "validation": path, "prompt_column": "prompt", "packing": True})
    assert len(blocks.train) < 5  # of some twenty, most of them in the long prompt
    assert all((row[1:] != -100).any() for row in blocks.train["labels"])
    assert learned(blocks).startswith(f"So.{END}So.{END}So.{END}")
    with pytest.raises(Infeasible, match=r"no row of the training text .* larger max_length"):
        read({"train": path, "validation": path, "prompt_column": "prompt", "max_length": 3})


def test_a_batch_is_padded_where_it_has_to_be() -> None:
    import torch

    long, short = torch.tensor([5, 6, 7]), torch.tensor([8, 9])
    padded = collate([{"input_ids": long}, {"input_ids": short}])
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert padded["labels"].tolist() == [[5, 6, 7], [8, 9, -100]]
    masked = torch.tensor([-100, 9])
    own = collate([{"input_ids": short, "labels": masked}, {"input_ids": long, "labels": long}])
    assert own["labels"].tolist() == [[-100, 9, -100], [5, 6, 7]]
    assert set(collate([{"input_ids": long}, {"input_ids": long}])) == {"input_ids", "labels"}


def test_padding_does_not_change_the_loss() -> None:
    import torch

    llm = causal_lm.create_llm(1, 32, 2, 64, 50, block_size=32, dropout=0.0)
    llm.train(False)
    rows = [torch.arange(1, 9), torch.arange(1, 4)]
    with torch.no_grad():
        together = llm(**collate([{"input_ids": row} for row in rows])).loss
        each = [llm(**collate([{"input_ids": row}])).loss * (len(row) - 1) for row in rows]
    assert float(together) == pytest.approx(float(sum(each)) / 9, abs=1e-5)


def test_any_byte_can_be_encoded() -> None:
    tokenizer = read({"builtin": "pydoc"}).tokenizer
    words = "naïve \N{SNOWMAN} \x00 文字\n"
    assert tokenizer.decode(tokenizer(words)["input_ids"]) == words


@pytest.fixture
def hub_folder(folder: Path) -> Path:
    """A data set as the hub has them: a folder with a file for each split."""
    for name, said in (("train", DOCUMENTS[:50]), ("validation", DOCUMENTS[50:])):
        write(folder.parent / "hub" / f"{name}.jsonl", [{"text": words} for words in said])
    return folder.parent / "hub"


def test_a_folder_stands_for_a_data_set_of_the_hub(hub_folder: Path) -> None:
    import datasets

    found = read({"hub": str(hub_folder), "packing": False, "max_length": 256})
    assert documents_of(found, "train") == set(DOCUMENTS[:50])
    assert documents_of(found, "validation") == set(DOCUMENTS[50:])
    loaded = datasets.load_dataset(str(hub_folder))
    loaded.save_to_disk(str(hub_folder.parent / "saved"))
    again = read({"hub": str(hub_folder.parent / "saved"), "packing": False, "max_length": 256})
    assert tokens_of(again.train) == tokens_of(found.train)


def test_the_hub_is_read_without_a_thread_and_not_at_all_when_offline(hub_folder: Path) -> None:
    code = """if True:
        import sys, threading
        from hpoctl.objectives.causal_lm.text import corpus, read_source
        found = corpus(*read_source({"hub": sys.argv[1], "max_length": 16, "vocab_size": 300}))
        assert threading.active_count() == 1, threading.enumerate()
        try:
            corpus(*read_source({"hub": "nobody/nothing"}))
        except ValueError as wrong:
            print(wrong)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(hub_folder)],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "dataset.hub: nobody/nothing: " in done.stdout, done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.xls", "a,b", r"data.xls: must be such a file or a folder: .jsonl, .csv"),
        ("none.txt", "", "there is no text in it"),
        ("short.txt", "too short", "the training text has .* less than one block of 32"),
        ("bad.jsonl", '{"text": "a"}\n\n{"text"\n', r"bad.jsonl:3: not JSON"),
        ("other.jsonl", '{"id": 1, "txt": "a"}', r"other.jsonl:1: .* 'text'; .* one of txt"),
        ("number.jsonl", '{"text": 3}', r"number.jsonl:1: no text in the field 'text'"),
        ("list.jsonl", '["a"]', r"list.jsonl:1: is no object, such as"),
        ("latin.txt", "caf\udce9", r"latin.txt: is not UTF-8: convert it"),
        ("other.csv", 'texts,b\n"a\nb",c\n', r"other.csv:3: .* 'text'; .* one of texts"),
        ("cut.csv", "b,text\na\n", r"cut.csv:2: no text in the field 'text'"),
        ("no.parquet", "text", r"no.parquet: Parquet"),
        ("one.jsonl", '{"text": "a"}\n' * 9, r"nothing is left for train: .* .1 different"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(
    name: str, content: str, message: str, folder: Path
) -> None:
    (folder / name).write_text(content, encoding="utf-8", errors="surrogateescape")
    with pytest.raises((ValueError, Infeasible), match=message):
        read({"path": str(folder / name)})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"message": []}, r"a.jsonl:1: no list of messages in .* 'messages'; .* one of message"),
        ({"messages": []}, r"a.jsonl:1: no list of messages"),
        ({"messages": "["}, r"a.jsonl:1: the field 'messages' is not JSON"),
        ({"messages": [{"role": "user"}]}, r"a.jsonl:1: a message .* needs a role and a content"),
    ],
)
def test_a_chat_that_cannot_be_used_is_refused(
    row: Mapping[str, object], message: str, folder: Path
) -> None:
    path = write(folder / "a.jsonl", [row])
    with pytest.raises(ValueError, match=message):
        read({"path": str(path), "messages_column": "messages"})


def test_a_file_that_is_not_there_is_named_in_full() -> None:
    with pytest.raises(ValueError, match=rf"{Path.cwd()}/no such file.txt: .*No such file"):
        read({"path": "no such file.txt"})


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ({}, "give one of 'path: file.jsonl', 'train: file.jsonl', 'hub: name' and"),
        ({"path": "a.txt", "hub": "b"}, "give one of"),
        ({"path": "a.txt", "revision": "b"}, "dataset.revision: goes with hub only"),
        ({"builtin": "pydoc", "test": "b"}, "dataset.test: goes with path or train only"),
        ({"hub": "a", "test": "b"}, "with hub, validation and test are the splits"),
        ({"train": "a", "test": "b", "test_share": 0.1}, "either test or test_share"),
        ({"path": "a", "validation_share": 0.5, "test_share": 0.5}, "leave nothing to train on"),
        ({"path": "a", "text_column": "b", "prompt_column": "c"}, "exclude each other"),
        ({"path": "a", "completion_column": "c"}, "needs prompt_column"),
        ({"path": "a", "max_length": 2, "block_size": 2}, "two names of one thing"),
        ({"path": "a", "packing": 1}, "dataset.packing: is 1, but must be true or false"),
        ({"path": "a", "sample_share": True}, "dataset.sample_share: is True"),
        ({"path": "a.txt", "packing": False}, "train is one running text: .*a.txt"),
        ({"path": "a", "train_on": "test"}, "dataset.train_on: is 'test', .* train or all"),
        ({"path": "a", "train_on": "all"}, "add evaluate_on: test"),
        ({"builtin": "pydoc", "evaluate_on": "test"}, "no test part: give test_share, or test"),
    ],
)
def test_values_that_do_not_go_together_are_refused(
    dataset: Mapping[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        corpus(*read_source(dataset))
