"""Checkpoints in a folder: which one is whole, and which are not needed any more.

A checkpoint is a folder `checkpoint-<step>`, as transformers names them. It counts once `SEAL` is
in it, which is written last: a process that is killed while it saves leaves the former one valid.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

SEAL = "hpoctl.json"
_PREFIX = "checkpoint-"


def seal(checkpoint: Path) -> None:
    """Makes a checkpoint count, with everything in it on the disk."""
    for path in sorted(checkpoint.rglob("*")):
        _sync(path)
    _sync(checkpoint)
    draft = checkpoint / f"{SEAL}.new"
    draft.write_text(json.dumps({"step": step_of(checkpoint)}) + "\n", encoding="utf-8")
    _sync(draft)
    draft.replace(checkpoint / SEAL)
    _sync(checkpoint)


def latest(folder: Path) -> Path | None:
    """The whole checkpoint of the latest step, or None."""
    return max(
        (path for path in _all(folder) if (path / SEAL).is_file()), key=step_of, default=None
    )


def remove(folder: Path, keep: set[Path] | frozenset[Path] = frozenset()) -> None:
    """Removes all checkpoints but these; each loses its seal first."""
    for checkpoint in _all(folder):
        if checkpoint not in keep:
            (checkpoint / SEAL).unlink(missing_ok=True)
            shutil.rmtree(checkpoint)


def step_of(checkpoint: Path) -> int:
    """The step at which it was saved."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def _all(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.glob(f"{_PREFIX}*")
        if path.is_dir() and path.name.removeprefix(_PREFIX).isdigit()
    ]


def _sync(path: Path) -> None:
    """Waits until a file or a folder is on the disk; a node may fail a moment later."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
