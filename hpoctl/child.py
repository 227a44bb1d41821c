"""The child's side of a trial: a forked process that runs the objective and reports over a pipe.

Messages are JSON both ways. The child never sees the study: what it inherits of the storage's URL
is the worker's memory, and the variable that held it is taken out of its environment.
"""

from __future__ import annotations

import io
import json
import math
import mmap
import multiprocessing
import os
import random
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from hpoctl import heritage, memory
from hpoctl.failures import TrialFailed, classify
from hpoctl.kin import end_with_parent
from hpoctl.metrics import MEMORY, weigh
from hpoctl.trial import Checkpointed, Objective, Outcome, Pruned
from hpoctl.words import Cause


class Flag:
    """One bit that the worker may set and the child sees: a page of memory that both have."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Sets it for good."""
        self._page[0] = 1

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._page[0] == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """What a child is sent to do: one trial, for these metrics, without these variables.

    `constraints` name further values that must be there. With `weights`, what is reported is the
    weighted sum of all metrics; it must be known at every step where a pruner `prunes` by it.
    """

    number: int
    params: Mapping[str, object]
    args: Mapping[str, object]
    seed: int
    dir: Path
    cpus: int
    metrics: Sequence[str]
    secrets: Sequence[str]
    constraints: Sequence[str] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    prunes: bool = False
    attempt: int = 1
    parent: Path | None = None  # the folder of the trial that it goes on from
    hands_on: bool = False
    asked: Flag = field(default_factory=Flag)


@dataclass(slots=True)
class ChildTrial:
    """The Trial that an objective sees, in the child."""

    errand: Errand
    pipe: Connection
    _prune: bool = field(default=False)

    @property
    def number(self) -> int:
        return self.errand.number

    @property
    def params(self) -> Mapping[str, object]:
        return self.errand.params

    @property
    def args(self) -> Mapping[str, object]:
        return self.errand.args

    @property
    def metrics(self) -> Sequence[str]:
        return self.errand.metrics

    @property
    def seed(self) -> int:
        return self.errand.seed

    @property
    def dir(self) -> Path:
        return self.errand.dir

    @property
    def parent_dir(self) -> Path | None:
        return None if self.errand.parent is None else heritage.place(self.errand.dir)

    @property
    def hands_on(self) -> bool:
        return self.errand.hands_on

    @property
    def cpus(self) -> int:
        return self.errand.cpus

    @property
    def attempt(self) -> int:
        return self.errand.attempt

    @property
    def resumed(self) -> bool:
        return self.errand.attempt > 1

    def should_checkpoint(self) -> bool:
        return self.errand.asked.is_set()

    def report(self, value: float, step: int, **extra: float) -> None:
        given = {name: float(number) for name, number in extra.items()}
        compared: float | None = float(value)
        if self.errand.weights:
            given = {self.errand.metrics[0]: float(value), **given}
            compared = self._weighed(given)
        line = {} if compared is None else {"value": compared}
        with (self.dir / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
            metrics.write(json.dumps({"step": int(step), **line, **given}) + "\n")
        if compared is not None:
            self._send({"report": compared, "step": int(step)})
            self._prune = bool(json.loads(self.pipe.recv_bytes())["prune"])

    def should_prune(self) -> bool:
        return self._prune

    def _weighed(self, given: Mapping[str, float]) -> float | None:
        """The weighted sum at a step; None where a metric is missing, and no pruner needs it."""
        missing = [name for name in self.errand.weights if name not in given]
        if not missing:
            return weigh(self.errand.weights, given)
        if self.errand.prunes:
            raise ValueError(
                f"the pruner compares the weighted sum, and a report has no {missing[0]}:"
                f" give it by name, trial.report({self.errand.metrics[0]}, step, {missing[0]}=...)"
            )
        return None

    def _send(self, message: Mapping[str, object]) -> None:
        self.pipe.send_bytes(json.dumps(message).encode())


def run(objective: Objective, errand: Errand, pipe: Connection, worker_end: Connection) -> None:
    """The whole life of the child: runs the objective and sends what came of it."""
    worker_end.close()  # a copy that the fork left here would hide the worker's death
    _leave_the_worker_behind(errand)
    try:
        if errand.parent is not None:
            heritage.inherit(errand.parent, errand.dir)
        outcome = objective(ChildTrial(errand, pipe))
        message = _result(outcome, errand)
    except BaseException as raised:  # a SystemExit of a user's script is a failed trial too
        if isinstance(raised, Pruned) or type(raised).__name__ == "TrialPruned":
            message = {"pruned": True}
        elif isinstance(raised, Checkpointed) and errand.asked.is_set():
            message = {"checkpointed": True}
        else:
            message = _failure(raised)
    pipe.send_bytes(json.dumps(message).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # what the worker registered for its own exit is not ours to run


def _leave_the_worker_behind(errand: Errand) -> None:
    os.setpgrp()  # so that the worker can end the trial with all that it started
    signal.signal(signal.SIGHUP, lambda number, frame: os.killpg(0, signal.SIGKILL))
    worker = multiprocessing.parent_process()
    end_with_parent(signal.SIGHUP, os.getppid() if worker is None else worker.pid or 0)
    for warning in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        # The worker decides, and the trial is finished. Not SIG_IGN, which programs would inherit.
        signal.signal(warning, lambda number, frame: None)
    for secret in errand.secrets:
        os.environ.pop(secret, None)
    log = os.open(errand.dir / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        os.dup2(log, number)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # for 'hpoctl logs -f'
    random.seed(errand.seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(errand.seed)


def _failure(raised: BaseException) -> dict[str, object]:
    """What is said of an error, and how much memory was used by one that ran out of it."""
    cause = classify(raised)
    if cause is Cause.INFEASIBLE:  # no fault of any line: its words are enough
        said = f"{type(raised).__name__}: {raised}"
        print(said, file=sys.stderr)
        return {"error": said, "cause": cause}
    traceback.print_exc()
    message: dict[str, object] = {"error": traceback.format_exc(), "cause": cause}
    if cause in MEMORY:
        message["extras"] = memory.peaks()
    return message


def _result(outcome: Outcome, errand: Errand) -> dict[str, object]:
    """The metrics' values in order, and what else the objective returned by name.

    The trial's peak of GPU memory is among that, and what else of its memory is constrained.
    """
    values, extras = _named(outcome, errand.metrics)
    used = {
        name: peak
        for name, peak in memory.peaks().items()
        if name in errand.constraints or name == MEMORY[Cause.CUDA_OOM]
    }
    extras = {**{name: peak for name, peak in used.items() if name not in values}, **extras}
    known = {**values, **extras}
    for name in errand.constraints:
        if name not in known:
            raise ValueError(
                f"the objective returned {', '.join(values)} and no '{name}', which a constraint"
                f" names: return a mapping with '{name}' in it"
            )
        if math.isnan(known[name]):
            raise TrialFailed(f"'{name}' is NaN, and a constraint names it", Cause.NAN)
    return {"values": list(values.values()), "extras": extras}


def _named(outcome: Outcome, metrics: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics in their order, and what else there is; each by name."""
    if isinstance(outcome, Mapping):
        missing = [name for name in metrics if name not in outcome]
        if missing:
            raise ValueError(
                f"the objective returned {', '.join(outcome) or 'nothing'}, without {missing[0]}"
            )
        extras = {name: float(v) for name, v in outcome.items() if name not in metrics}
        return {name: float(outcome[name]) for name in metrics}, extras
    if outcome is None:
        raise ValueError("the objective returned None: is a 'return' missing?")
    values = list(outcome) if isinstance(outcome, Sequence) else [outcome]
    if len(values) != len(metrics) or isinstance(outcome, str):
        raise ValueError(f"the objective returned {outcome!r}, not one number for each metric")
    return {name: float(v) for name, v in zip(metrics, values, strict=True)}, {}
