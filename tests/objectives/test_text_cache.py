from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from hpoctl.objectives.causal_lm import text
from hpoctl.objectives.causal_lm.text import Corpus, corpus, read_source

# What each process does: it takes the text and says how many rows it has.
RUN = """if True:
    import json, logging, os, resource, signal, sys
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("filelock").setLevel(logging.WARNING)
    from hpoctl.objectives.causal_lm.text import apart, cache, corpus, read_source
    import transformers
    exec(sys.argv[2])
    found = corpus(*read_source(json.loads(sys.argv[1])))
    print(len(found.train), len(found.validation))
"""
MADE = "tokenised the text into"


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "manual.jsonl"
    rows = [json.dumps({"text": topics[name]}) for name in sorted(topics)]
    path.write_text("\n".join(rows), encoding="utf-8")
    cache = str(tmp_path / "the cache")
    return {"path": str(path), "cache": cache, "max_length": 32, "vocab_size": 500}


def start(dataset: Mapping[str, object], first: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(dataset), first],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=120)
    finally:
        process.kill()


def here(dataset: Mapping[str, object], **other: object) -> Corpus:
    """The text as a process sees it that has not read it yet."""
    corpus.cache_clear()
    text._tokens.cache_clear()
    return corpus(*read_source({**dataset, **other}))


def entries(dataset: Mapping[str, object]) -> list[Path]:
    """Everything in the cache but the files of the locks."""
    folder = Path(str(dataset["cache"]))
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def rows(found: Corpus) -> str:
    return f"{len(found.train)} {len(found.validation)}\n"


def test_workers_that_start_at_once_tokenise_once(dataset: dict[str, object]) -> None:
    ends = [end(process) for process in [start(dataset) for _ in range(4)]]
    assert sum(said.count(MADE) for _, said in ends) == 1, ends
    assert {printed for printed, _ in ends} == {rows(here(dataset))}
    (entry,) = entries(dataset)
    assert {path.name for path in entry.iterdir()} == {
        "tokenizer",
        "train.arrow",
        "validation.arrow",
    }


@pytest.mark.parametrize(
    "moment",
    [
        "cache._fill",  # nothing is written yet
        "cache._sync",  # all is written
        "cache._place",  # all is on disk
    ],
)
def test_a_writer_that_is_killed_leaves_nothing_that_is_trusted(
    moment: str, dataset: dict[str, object]
) -> None:
    kill = f"{moment} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    printed, said = end(start(dataset, kill))
    assert printed == ""
    assert "the process that reads it ended by signal 9: is there too little memory?" in said
    assert all(path.name.startswith(".") for path in entries(dataset))
    found = here(dataset)
    (entry,) = entries(dataset)
    assert not entry.name.startswith(".")
    assert rows(found) == rows(here(dataset, cache=False))


def test_a_worker_that_is_killed_while_it_holds_the_lock_frees_it(
    dataset: dict[str, object],
) -> None:
    # Its own process too, not only that which it forked.
    kill = "cache.apart = lambda work: os.kill(os.getpid(), signal.SIGKILL)"
    process = start(dataset, kill)
    end(process)
    assert process.returncode == -signal.SIGKILL
    assert rows(here(dataset)) == rows(here(dataset, cache=False))


def test_an_entry_that_is_damaged_is_made_again(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    good = rows(here(dataset))
    (entry,) = entries(dataset)
    file = entry / "train.arrow"
    os.truncate(file, file.stat().st_size // 2)
    assert rows(here(dataset)) == good
    assert f"{entry} cannot be read and is made again" in caplog.text
    caplog.clear()
    shutil.rmtree(entry / "tokenizer")
    assert rows(here(dataset)) == good
    assert f"{entry} cannot be read and is made again" in caplog.text
    assert entries(dataset) == [entry]


def test_a_full_disk_costs_a_warning_only(dataset: dict[str, object]) -> None:
    full = "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    printed, said = end(start(dataset, full))
    assert "tokens are not kept in" in said
    assert "File too large" in said
    assert printed == rows(here(dataset, cache=False))
    assert entries(dataset) == []


def test_a_folder_that_cannot_be_written_costs_a_warning_only(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    found = here(dataset, cache=f"{dataset['path']}/cache")
    assert "tokens are not kept in" in caplog.text
    assert rows(found) == rows(here(dataset))


def test_tokens_are_mapped_not_read(dataset: dict[str, object]) -> None:
    import pyarrow as pa

    here(dataset)
    before = pa.total_allocated_bytes()
    found = here(dataset)
    assert pa.total_allocated_bytes() - before < found.train.data.nbytes / 10


@pytest.mark.parametrize(
    "other",
    [
        {"vocab_size": 501},
        {"validation_share": 0.2},
        {"seed": 1},
    ],
    ids=str,
)
def test_what_decides_the_tokens_has_an_entry_of_its_own(
    other: dict[str, object], dataset: dict[str, object]
) -> None:
    here(dataset)
    here(dataset, **other)
    assert len(entries(dataset)) == 2


def test_content_counts_not_names_or_times(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    here(dataset)
    path = Path(str(dataset["path"]))
    copy = shutil.copy(path, path.with_name("copy.jsonl"))
    caplog.set_level(logging.INFO)
    here(dataset, path=copy, max_length=64, packing=False)
    assert MADE not in caplog.text
    with path.open("a") as file:
        file.write('\n{"text": "One more."}')
    here(dataset)
    assert MADE in caplog.text


def test_the_tokenizer_of_a_model_counts_by_its_content(dataset: dict[str, object]) -> None:
    own = here(dataset).tokenizer
    folder = Path(str(dataset["path"])).parent
    for name in ("one", "two"):
        own.save_pretrained(folder / name)
    own.add_tokens(["manual"])
    own.save_pretrained(folder / "other")
    counts = []
    for name in ("one", "two", "other"):
        source, how = read_source(dataset)
        corpus(source, how, str(folder / name))
        counts.append(len(entries(dataset)))
    assert counts == [2, 2, 3]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "runs/.tokens"),
        ({"XDG_CACHE_HOME": "/of/xdg"}, "/of/xdg/hpoctl"),
        ({"XDG_CACHE_HOME": "/of/xdg", "HPOCTL_CACHE": "/of/hpoctl"}, "/of/hpoctl"),
    ],
    ids=str,
)
def test_the_folder_is_that_of_the_environment_or_below_the_workdir(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("XDG_CACHE_HOME", "HPOCTL_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert read_source({"builtin": "pydoc"})[0].cache == tmp_path / folder
    assert read_source({"builtin": "pydoc", "cache": "/my/own"})[0].cache == Path("/my/own")
    assert read_source({"builtin": "pydoc", "cache": False})[0].cache is None
