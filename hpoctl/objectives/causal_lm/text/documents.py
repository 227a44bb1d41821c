"""Documents as they are read: from files, a folder of files, a data set of the hub, the builtin.

Local files are not read by `datasets.load_dataset`: it takes a name with brackets for a pattern,
writes a cache that workers would race for, and cannot say in which line a field is missing.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm import hub
from hpoctl.objectives.causal_lm.text.apart import apart
from hpoctl.objectives.causal_lm.text.source import PARTS, Kind, Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Document = tuple[str, ...]  # (text,) or (prompt, completion) or (messages as JSON,)
Row = tuple[str, Mapping[str, object]]  # where it stands, its columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Documents that belong together. Running text is one text, which may be cut anywhere."""

    documents: tuple[Document, ...]
    running: bool = False


class Opened:
    """Data that was found: `content` is a hash of all its bytes, `read` gives the documents.

    `commit` is that of the hub, where it is from there and `content` has looked.
    """

    commit: str | None = None

    def __init__(self, source: Source) -> None:
        """Raises ValueError where there is nothing that can be read."""
        self._source = source
        self._files = {part: _data_files(part, path) for part, path in source.files}

    def check(self) -> None:
        """Raises ValueError where the first document of a file of lines cannot be used."""
        for part, paths in self._files.items():
            lines = [path for path in paths if path.suffix in (".jsonl", ".csv", ".tsv")]
            for path in lines[:1]:
                try:
                    next(_read(path, self._source), None)
                except (OSError, csv.Error, ValueError) as wrong:
                    raise ValueError(f"dataset.{part}: {_said(path, wrong)}") from wrong

    def content(self) -> object:
        """What differs wherever the documents differ, as JSON can tell it."""
        if self._source.hub is not None:
            # Apart, as it leaves threads; after that all lies in the cache of datasets.
            found = json.loads(apart(lambda: json.dumps(_contents(_load(self._source)))))
            self.commit = found.pop("commit")
            return found
        if self._files:
            return {
                part: [(path.suffix, digest(path)) for path in paths]
                for part, paths in self._files.items()
            }
        return [hashlib.sha256(text.encode()).hexdigest() for (text,) in _builtin()]

    def read(self) -> dict[str, Part]:
        """The parts that are given apart, `train` at least. Raises ValueError, with the line."""
        if self._source.hub is not None:
            return {
                part: Part(
                    documents=tuple(_documents(_table_rows(part, rows, self._source), self._source))
                )
                for part, rows in _load(self._source).items()
            }
        if self._files:
            return {part: self._part(part, paths) for part, paths in self._files.items()}
        return {"train": Part(documents=tuple(_builtin()))}

    def _part(self, part: str, paths: list[Path]) -> Part:
        texts = [path for path in paths if path.suffix == ".txt"]
        if texts and self._source.kind is not Kind.TEXT:
            raise ValueError(f"{texts[0]}: dataset.{self._source.kind}: a .txt file has no columns")
        documents: list[Document] = []
        for path in paths:
            try:
                documents.extend(_read(path, self._source))
            except (OSError, UnicodeDecodeError, csv.Error) as wrong:
                raise ValueError(f"dataset.{part}: {_said(path, wrong)}") from wrong
        alone = dict(self._source.files)[part].is_file()
        return Part(documents=tuple(documents), running=alone and bool(texts))


def _said(path: Path, wrong: Exception) -> str:
    """What is wrong with a file, beginning with its name."""
    if isinstance(wrong, UnicodeDecodeError):
        return f"{path}: is not UTF-8: convert it, such as by 'iconv -f latin1 -t utf-8'"
    return str(wrong) if str(wrong).startswith(str(path)) else f"{path}: {wrong}"


def _builtin() -> list[Document]:
    from pydoc_data.topics import topics

    return [(topics[name],) for name in sorted(topics)]


def _data_files(part: str, path: Path) -> list[Path]:
    """The file, or those below the folder that can be read, in the order of their names."""
    known = f"{', '.join(_READERS)} or .txt"
    if not path.exists():
        raise ValueError(f"dataset.{part}: {path}: No such file or directory")
    found = [path]
    if path.is_dir():
        names = sorted(path.rglob("*"))
        found = [name for name in names if not _hidden(name.relative_to(path)) and name.is_file()]
    found = [name for name in found if name.suffix in (*_READERS, ".txt")]
    if not found:
        what = "no such file in this folder" if path.is_dir() else "must be such a file or a folder"
        raise ValueError(f"dataset.{part}: {path}: {what}: {known}")
    return found


def _hidden(path: Path) -> bool:
    return any(name.startswith(".") for name in path.parts)


def digest(path: Path) -> str:
    """A hash of all bytes of a file. Raises ValueError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as wrong:
        raise ValueError(f"dataset: {path}: {wrong}") from wrong


def _read(path: Path, source: Source) -> Iterator[Document]:
    if path.suffix == ".txt":
        text = path.read_text(encoding="utf-8")
        return iter([(text,)] if text else [])
    return _documents(_READERS[path.suffix](path), source)


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as wrong:
                raise ValueError(f"{path}:{number}: not JSON: {wrong}") from wrong
            if not isinstance(row, dict):
                raise ValueError(f'{path}:{number}: is no object, such as {{"text": "…"}}')
            yield f"{path}:{number}", row


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than 131,072 characters
    with path.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        for row in rows:
            yield f"{path}:{rows.line_num}", row


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(batch_size=1024, use_threads=False)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, start=1):
                yield f"{path}: row {number}", row
    except pa.ArrowInvalid as wrong:
        raise ValueError(f"{path}: {wrong}") from wrong


_READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


def _documents(rows: Iterator[Row], source: Source) -> Iterator[Document]:
    """Of each row, the columns that are asked for; rows without a letter are left out."""
    take = _messages if source.kind is Kind.CHAT else _texts
    for where, row in rows:
        document = take(where, row, source)
        if any(document):
            yield document


def _texts(where: str, row: Mapping[str, object], source: Source) -> Document:
    values = []
    for key, column in zip((source.kind, "completion_column"), source.columns, strict=False):
        value = row.get(column)
        if not isinstance(value, str):
            raise ValueError(
                f"{where}: no text in the field '{column}'{_nearest(key, column, row)}"
            )
        values.append(value)
    return tuple(values)


def _messages(where: str, row: Mapping[str, object], source: Source) -> Document:
    """The messages as JSON, so that a document is always text."""
    (column,) = source.columns
    given = row.get(column)
    if isinstance(given, str):  # as a CSV file has it
        try:
            given = json.loads(given)
        except json.JSONDecodeError as wrong:
            raise ValueError(f"{where}: the field '{column}' is not JSON: {wrong}") from wrong
    if not isinstance(given, list) or not given:
        hint = _nearest(source.kind, column, row)
        raise ValueError(f"{where}: no list of messages in the field '{column}'{hint}")
    for message in given:
        words = message if isinstance(message, dict) else {}
        if not all(isinstance(words.get(name), str) for name in ("role", "content")):
            raise ValueError(f"{where}: a message in '{column}' needs a role and a content")
    return (json.dumps(given),)


def _nearest(key: str, column: str, row: Mapping[str, object]) -> str:
    names = [str(name) for name in row]
    close = difflib.get_close_matches(column, names, n=3) or names
    return f"; dataset.{key} may be one of {', '.join(close)}" if close else ""


def _load(source: Source) -> dict[str, Dataset]:
    """The splits of a data set of the hub, or of a local folder that holds one."""
    import datasets
    import tqdm

    datasets.disable_progress_bars()
    tqdm.tqdm.monitor_interval = 0  # else a bar leaves a thread, which no fork survives
    folder = Path(str(source.hub)).expanduser()
    name = hub.data_set({"hub": source.hub, "config": source.config, "revision": source.revision})
    splits = _saved(folder, source) if name is None else hub.open_dataset(name)
    if "train" not in splits:
        raise ValueError(f"dataset.hub: {source.hub}: no split 'train'; has {', '.join(splits)}")
    return {part: splits[part] for part in PARTS if part in splits}


def _saved(folder: Path, source: Source) -> dict[str, Dataset]:
    """Those of a folder."""
    import datasets

    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            found: Dataset | DatasetDict = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder), source.config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as wrong:
        raise ValueError(f"dataset.hub: {source.hub}: {wrong}") from wrong
    return dict(found) if isinstance(found, dict) else {"train": found}


def _table_rows(part: str, rows: Dataset, source: Source) -> Iterator[Row]:
    if set(source.columns) <= set(rows.column_names):
        rows = rows.select_columns(list(source.columns))  # pictures would be decoded
    for number, row in enumerate(rows, start=1):
        yield f"{source.hub}: {part}: row {number}", row


def _contents(splits: Mapping[str, Dataset]) -> dict[str, object]:
    """Hashes of the files that the rows lie in; datasets' fingerprint tells their folder too.

    The `commit` is beside them: another one may have the same files.
    """
    found: dict[str, object] = {"commit": None}
    for part, rows in splits.items():
        files = [Path(file["filename"]) for file in rows.cache_files]
        found[part] = [digest(file) for file in files] or [rows._fingerprint]
        found["commit"] = hub.commit_in(files[0].parent) if files else None
    return found
