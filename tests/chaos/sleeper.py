"""The objective of the chaos run: sleeps, and writes down on its own what it began and ended."""

from __future__ import annotations

import json
import os
import random
import time
from pathlib import Path

from hpoctl.trial import Trial


def objective(trial: Trial) -> dict[str, float]:
    """Sleeps for some seconds, by the trial's seed, between the two of `objective_args.seconds`.

    `ran` names this execution among all, in the study and in the file `objective_args.log`.
    """
    seconds = trial.args["seconds"]
    assert isinstance(seconds, list | tuple)
    length = random.Random(trial.seed).uniform(*seconds)
    ran = int.from_bytes(os.urandom(6), "big")
    line = {"trial": trial.number, "ran": ran, "begun": time.time()}
    for step in (1, 2):
        time.sleep(length / 2)
        trial.report(length / step, step)
    _append(Path(str(trial.args["log"])), {**line, "ended": time.time()})
    return {"value": length, "ran": float(ran)}


def _append(log: Path, line: dict[str, float]) -> None:
    """One write, which processes of one machine do not mix up."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, (json.dumps(line) + "\n").encode())
    finally:
        os.close(file)
