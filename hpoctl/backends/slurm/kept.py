"""A site's limits, kept for some minutes in the user's state folder: it saves up to seven commands.

What is kept may be old: nothing is refused by it before Slurm was asked again (`newer_than`).
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hpoctl import rundir
from hpoctl.backends.slurm import site
from hpoctl.limits import Limits


def read(newer_than: float) -> Limits:
    """What this cluster allows this user, as Slurm said it after this moment.

    Whatever it did not say is left out.
    """
    user = pwd.getpwuid(os.getuid()).pw_name
    path = _path(user)
    known = _known(path, newer_than)
    if known is None:
        asked_at, said = time.time(), site.answers(user)
        known = [text or "" for text in said]
        if None not in said:
            _keep(path, asked_at, known)
    return site.parse(*known, user=user)


def _path(user: str) -> Path:
    """A file for each cluster: a home may be shared by several."""
    of = "\0".join([user, os.uname().nodename, os.environ.get("SLURM_CONF", "")])
    name = hashlib.sha256(of.encode()).hexdigest()[:12]
    return rundir.state_folder(os.environ) / f"limits-{name}.json"


def _known(path: Path, newer_than: float) -> list[str] | None:
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if newer_than < kept["asked_at"] <= time.time() and len(kept["answers"]) == _ANSWERS:
            return [str(text) for text in kept["answers"]]
    return None


_ANSWERS = 7


def _keep(path: Path, asked_at: float, answers: Sequence[str]) -> None:
    """Best effort: in a home that is full or read-only every command asks anew."""
    partial = path.with_suffix(f".{os.uname().nodename}.{os.getpid()}.partial")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"asked_at": asked_at, "answers": answers}))
        partial.replace(path)
