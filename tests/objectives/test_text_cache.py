from __future__ import annotations

import io
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from hpoctl.objectives.causal_lm import text
from hpoctl.objectives.causal_lm.places import Place
from hpoctl.objectives.causal_lm.text import Corpus, cache, corpus, read_source

MADE = "tokenised the text into"
KEPT_NOT = "tokens are not kept in"


# From 3.12 on Python warns of threads at a fork, also of those of OpenBLAS and Arrow, which end.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """What a worker has imported when it forks, so that no process here does it again."""
    corpus(*read_source({"builtin": "pydoc"}))


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, object]:
    path = tmp_path / "manual.jsonl"
    rows = [json.dumps({"text": topics[name]}) for name in sorted(topics)]
    path.write_text("\n".join(rows), encoding="utf-8")
    cache = str(tmp_path / "the cache")
    return {"path": str(path), "cache": cache, "max_length": 32, "vocab_size": 500}


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process of its own, forked from this one, which has all libraries; as workers are."""

    process: ForkProcess
    pipe: Connection

    def end(self) -> str:
        """What it logged, and what came of it; nothing where it was killed."""
        try:
            assert self.pipe.poll(120), "it hangs"
            return str(self.pipe.recv())
        except EOFError:
            return ""
        finally:
            self.process.kill()
            self.process.join()


def start(dataset: Mapping[str, object], first: Callable[[], object] = list) -> Worker:
    """A worker that takes the text, after doing `first`."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def run() -> None:
        said = io.StringIO()
        logging.basicConfig(level=logging.INFO, stream=said, format="%(message)s", force=True)
        first()
        try:
            outcome = rows(here(dataset))
        except RuntimeError as wrong:
            outcome = str(wrong)
        theirs.send(said.getvalue() + outcome)

    process = fork.Process(target=run)
    process.start()
    theirs.close()
    return Worker(process=process, pipe=ours)


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
    return f"{len(found.train)} and {len(found.validation)} rows"


def test_workers_that_start_at_once_tokenise_once(dataset: dict[str, object]) -> None:
    ends = [worker.end() for worker in [start(dataset) for _ in range(8)]]
    assert sum(MADE in said for said in ends) == 1, ends
    expected = rows(here(dataset))
    assert all(said.endswith(expected) for said in ends), ends
    (entry,) = entries(dataset)
    assert {path.name for path in entry.iterdir()} == {
        "parts.json",
        "tokenizer",
        "train.arrow",
        "validation.arrow",
    }


@pytest.mark.parametrize(
    "moment",
    [
        "_fill",  # nothing is written yet
        "_sync",  # all is written
        "_place",  # all is on disk
    ],
)
def test_a_writer_that_is_killed_leaves_nothing_that_is_trusted(
    moment: str, dataset: dict[str, object]
) -> None:
    said = start(dataset, lambda: setattr(cache, moment, die)).end()
    assert "the process that reads it ended by signal 9: is there too little memory?" in said
    assert all(path.name.startswith(".") for path in entries(dataset))
    for draft in entries(dataset):
        os.utime(draft, (0, 0))  # a young one might be that of a writer on another node
    found = here(dataset)
    (entry,) = entries(dataset)
    assert not entry.name.startswith(".")
    assert rows(found) == rows(here(dataset, cache=False))


def test_a_worker_that_is_killed_while_it_holds_the_lock_frees_it(
    dataset: dict[str, object],
) -> None:
    worker = start(dataset, lambda: setattr(cache, "apart", die))
    assert worker.end() == ""
    assert worker.process.exitcode == -signal.SIGKILL
    assert list(Path(str(dataset["cache"])).glob("*.lock"))
    assert rows(here(dataset)) == rows(here(dataset, cache=False))


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_entry_that_is_damaged_is_made_again(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    good = rows(here(dataset))
    (entry,) = entries(dataset)
    file = entry / "train.arrow"
    os.truncate(file, file.stat().st_size // 2)
    assert rows(here(dataset)) == good
    assert f"{entry} cannot be read and is made again" in caplog.text
    for part in (entry / "tokenizer", entry / "validation.arrow"):
        caplog.clear()
        shutil.rmtree(part) if part.is_dir() else part.unlink()
        assert rows(here(dataset)) == good
        assert f"{entry} cannot be read and is made again" in caplog.text
    assert entries(dataset) == [entry]


def test_a_writer_whom_the_lock_does_not_reach_is_left_alone(dataset: dict[str, object]) -> None:
    good = rows(here(dataset))
    (entry,) = entries(dataset)
    young = entry.rename(entry.with_name(f".{entry.name}-of-another-node"))
    assert rows(here(dataset)) == good
    assert set(entries(dataset)) == {young, entry}


def test_two_who_write_at_once_leave_one_whole_entry(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def unlocked(_: Path) -> Iterator[None]:  # as on a disk whose locks hold on one node only
        yield

    ends = [
        worker.end()
        for worker in [start(dataset, lambda: setattr(cache, "_lock", unlocked)) for _ in range(4)]
    ]
    assert sum(MADE in said for said in ends) > 1
    expected = rows(here(dataset))
    assert all(said.endswith(expected) for said in ends), ends
    assert len(entries(dataset)) == 1
    assert "cannot be read" not in caplog.text + "".join(ends)


def test_a_full_disk_costs_a_warning_only(dataset: dict[str, object]) -> None:
    full = resource.RLIMIT_FSIZE, (50_000, 50_000)
    said = start(dataset, lambda: resource.setrlimit(*full)).end()
    assert KEPT_NOT in said
    assert "File too large" in said
    assert said.endswith(rows(here(dataset, cache=False)))
    assert entries(dataset) == []


def test_a_folder_that_cannot_be_written_costs_a_warning_only(
    dataset: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    found = here(dataset, cache=f"{dataset['path']}/cache")
    assert KEPT_NOT in caplog.text
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
        corpus(source, how, Place(name=name, source=str(folder / name)))
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
