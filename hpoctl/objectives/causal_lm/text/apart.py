"""Work in a process of its own: it may use all cores and leave threads, and its memory goes back.

What runs before the fork of a trial may do neither, and to tokenise with one core of many would
let a whole job wait.
"""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable


def apart(work: Callable[[], str]) -> str:
    """What `work` returns, done in a forked process.

    Raises the ValueError or OSError that it raises, and RuntimeError where it ends otherwise.
    """
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def run() -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        try:
            theirs.send((None, work()))
        except OSError as wrong:
            theirs.send((OSError, str(wrong)))
        except ValueError as wrong:
            theirs.send((ValueError, str(wrong)))

    process = fork.Process(target=run)
    with warnings.catch_warnings():
        # OpenBLAS and Arrow start threads when they are imported, and end them at a fork.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        process.start()
    theirs.close()
    try:
        error, words = ours.recv()
    except EOFError:
        error, words = RuntimeError, ""
    process.join()
    if error is None:
        return str(words)
    raise error(words or f"dataset: the process that reads it ended by {_how(process.exitcode)}")


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}: is there too little memory?"
    return f"exit code {code}"
