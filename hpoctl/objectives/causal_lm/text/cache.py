"""Tokens on disk, made once and mapped by all: by every worker of a node, and by their trials.

An entry is a folder `<key>/` with Arrow files and the tokenizer. It appears whole, by a rename, or
not at all; whoever makes it holds `<key>.lock`. The key tells everything that the tokens depend
on, so an entry never changes and may be deleted at any time. Knows no text.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.text.apart import apart
from hpoctl.objectives.causal_lm.text.tokenizer import loaded

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

_FORMAT = 1  # to be raised whenever the same key would mean other tokens
_PATIENCE_S = 3600.0  # for another worker that tokenises
_TOKENIZER = "tokenizer"
_PARTS = "parts.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """The tokenizer, and the tokens of each part, a row for each document."""

    tokenizer: PreTrainedTokenizerFast
    parts: Mapping[str, pa.Table]


def key(*facts: object) -> str:
    """A name for tokens that depend on these facts, which JSON can hold, and on our libraries."""
    import tokenizers

    said = json.dumps([_FORMAT, tokenizers.__version__, *facts], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def keep(folder: Path, name: str, make: Callable[[], Tokens]) -> Tokens:
    """The entry of this name, made if it is not there, once among all who ask at the same time.

    Where the folder cannot be used, the tokens stay in memory, and a warning says so.
    """
    entry = folder / name
    if (kept := _read(entry)) is not None:
        return kept
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stack = contextlib.ExitStack()
        stack.enter_context(_lock(folder / f"{name}.lock"))
    except OSError as wrong:
        return _in_memory(folder, wrong, make())
    with stack:
        if (kept := _read(entry)) is not None:  # by another, while we waited
            return kept
        begin = time.monotonic()
        try:
            apart(lambda: str(_write(entry, make())))
        except OSError as wrong:
            return _in_memory(folder, wrong, make())
        log.info("tokenised the text into %s in %.1f s", entry, time.monotonic() - begin)
        return _read(entry) or make()


def _in_memory(folder: Path, wrong: OSError, made: Tokens) -> Tokens:
    log.warning("tokens are not kept in %s, each worker makes its own: %s", folder, wrong)
    return made


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Held until the end, or by its kernel's word until this process is dead.

    Raises OSError where there are no locks, or where another holds it for an hour.
    """
    import filelock

    lock = filelock.FileLock(path, timeout=_PATIENCE_S, poll_interval=0.2)
    try:
        with lock:
            yield
    except filelock.Timeout as late:
        raise TimeoutError(f"{path} is held by another for {_PATIENCE_S:.0f} s") from late
    except NotImplementedError as none:
        raise OSError(f"{path}: this disk has no locks") from none


def _write(entry: Path, made: Tokens) -> Path:
    """The entry, complete. Raises OSError, and then leaves nothing."""
    _clear(entry)
    draft = entry.with_name(f".{entry.name}-{uuid.uuid4().hex}")
    try:
        _fill(draft, made)
        for path in (*draft.rglob("*"), draft):
            _sync(path)
        _place(draft, entry)
        _sync(entry.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return entry


def _clear(entry: Path) -> None:
    """Drafts of writers that were killed; not one of a writer whom the lock does not reach."""
    for left in entry.parent.glob(f".{entry.name}-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _PATIENCE_S:
                shutil.rmtree(left, ignore_errors=True)


def _fill(draft: Path, made: Tokens) -> None:
    import pyarrow as pa

    draft.mkdir()
    (draft / _PARTS).write_text(json.dumps(sorted(made.parts)))
    for part, table in made.parts.items():
        with pa.ipc.new_file(str(draft / f"{part}.arrow"), table.schema) as writer:
            writer.write_table(table)
    try:
        made.tokenizer.save_pretrained(draft / _TOKENIZER)
    except Exception as wrong:  # tokenizers has no narrower one for a full disk
        raise OSError(str(wrong)) from wrong


def _place(draft: Path, entry: Path) -> None:
    """Renames, unless the entry came to be after all: others may have mapped it."""
    try:
        draft.rename(entry)
    except OSError as wrong:
        if wrong.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if _read(entry) is None:
            broken = draft.with_name(f"{draft.name}-broken")
            entry.rename(broken)
            draft.rename(entry)
            shutil.rmtree(broken, ignore_errors=True)


def _sync(path: Path) -> None:
    """On disk for good: else a rename may outlive the content after a power cut."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _read(entry: Path) -> Tokens | None:
    """The entry, mapped into memory; nothing where there is none, or none that can be read."""
    import pyarrow as pa

    if not entry.exists():
        return None
    try:
        parts = json.loads((entry / _PARTS).read_text())
        return Tokens(
            tokenizer=loaded(entry / _TOKENIZER),
            parts={part: _map(entry / f"{part}.arrow") for part in parts},
        )
    except (OSError, ValueError, pa.ArrowException) as wrong:
        log.warning("%s cannot be read and is made again: %s", entry, wrong)
        return None


def _map(path: Path) -> pa.Table:
    """A file of Arrow's is read from its end, so one that is cut off is refused."""
    import pyarrow as pa

    options = pa.ipc.IpcReadOptions(use_threads=False)
    return pa.ipc.open_file(pa.memory_map(str(path)), options=options).read_all()
