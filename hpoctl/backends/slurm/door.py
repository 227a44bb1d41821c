"""Slurm's commands from within a container: asked for through a folder, run by slurm/container.sh.

The other side is a process outside, which has Slurm and the job's environment. Knows no command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

NOT_FOUND = 127  # a shell's exit code for a program that is not there
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


def run(
    door: Path, argv: Sequence[str], *, drop: str, keep: str, variable: str, timeout_s: float
) -> Answer:
    """Runs a command outside and gives what it said.

    Its environment is the job's without what `drop` matches, but for `keep`, and with a `variable`
    (`NAME=value`, or nothing). Raises TimeoutError, and OSError where nobody is outside.
    """
    end = time.monotonic() + timeout_s
    request = door / uuid4().hex
    request.with_suffix(".ask").write_text("\n".join((drop, keep, variable, *argv)) + "\n")
    bell = os.open(door / "bell", os.O_WRONLY | os.O_NONBLOCK)
    try:
        os.write(bell, f"{request.name}\n".encode())
    finally:
        os.close(bell)
    code = request.with_suffix(".code")
    while not code.exists():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(_POLL_S)
    out, err = (request.with_suffix(name).read_text() for name in (".out", ".err"))
    answer = Answer(code=int(code.read_text()), out=out, err=err)
    for part in door.glob(f"{request.name}.*"):
        part.unlink()
    return answer
