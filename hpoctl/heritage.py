"""What a trial of a population gets of its parent's folder, and when that is not needed any more.

Knows folders only; who goes on from whom, `population` decides and the study remembers.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from hpoctl.integrations import checkpoints

log = logging.getLogger(__name__)
_PARENT = "parent"
_DRAFT = f"{_PARENT}.new-"
_OWN = frozenset(("log.txt", "metrics.jsonl", "params.json", "args.json", "hub.json", _PARENT))


def place(folder: Path) -> Path:
    """Where a trial with this folder finds what its parent left."""
    return folder / _PARENT


def inherit(left: Path, folder: Path) -> None:
    """Puts what a parent has left into a trial's own folder: all of it or nothing.

    Files are linked where the disk can, which takes neither room nor time; what is done already is
    not done again. Raises FileNotFoundError where the parent's folder is gone.
    """
    for draft in folder.glob(f"{_DRAFT}*"):  # of a process that was killed here
        shutil.rmtree(draft, ignore_errors=True)
    if place(folder).is_dir():
        return
    if not left.is_dir():
        raise FileNotFoundError(f"{left} is gone, from which this trial goes on: was it deleted?")
    draft = folder / f"{_DRAFT}{os.getpid()}"

    def not_inherited(where: str, names: list[str]) -> Collection[str]:
        if Path(where) != left:
            return ()
        return {name for name in names if name in _OWN or name.startswith(_DRAFT)}

    shutil.copytree(left, draft, copy_function=_link, ignore=not_inherited)
    draft.rename(place(folder))


def tidy(complete: Iterable[Path], superseded: Iterable[Path]) -> None:
    """Removes what trials that are complete inherited, and checkpoints that nobody goes on from.

    Other workers may be at it too.
    """
    for folder in complete:
        shutil.rmtree(place(folder), ignore_errors=True)
    for folder in superseded:
        try:
            checkpoints.remove(folder)
        except OSError as wrong:
            log.info("%s is left to the next worker to remove: %s", folder, wrong)


def _link(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
    with Path(target).open("rb") as copied:
        os.fsync(copied.fileno())
