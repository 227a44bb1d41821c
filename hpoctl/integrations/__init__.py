"""What a training script of your own imports: its trial, and a run of a function as a program.

A program that `command:` starts talks to its trial over a socket: a line of JSON each way, on one
connection. Every process of it may, also those of `torchrun` and `srun`: what rank 0 reports
counts, and the others hear what rank 0 heard. Imports neither torch nor the study.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from hpoctl.errors import ConfigError
from hpoctl.trial import Checkpointed, Infeasible, Objective, Outcome, Pruned, Trial

__all__ = ["current_trial", "run"]

GO_ON, PRUNE, CHECKPOINT = "go on", "prune", "checkpoint"  # what a program may be told
INFEASIBLE = "infeasible"  # and what it may say
_RANKS = (  # which process this is, and of how many, as launchers say it
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # srun; a batch script has no tasks of a step
)


def rank_of(environ: Mapping[str, str]) -> tuple[int, int]:
    """Which process of a program this is, and how many there are; (0, 1) where it is alone."""
    for rank, world in _RANKS:
        if environ.get(rank, "").isdigit() and environ.get(world, "").isdigit():
            return int(environ[rank]), int(environ[world])
    return 0, 1


@dataclass(slots=True, kw_only=True)
class Line:
    """A program's connection to its trial, opened when it is first used."""

    address: str
    _stream: TextIOWrapper | None = field(default=None, init=False)

    def ask(self, said: Mapping[str, object]) -> str:
        """Says it; what the program should do next. Raises ConnectionError if nobody answers."""
        if self._stream is None:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(self.address)
                self._stream = line.makefile("rw", encoding="utf-8")
        self._stream.write(json.dumps(said) + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise ConnectionError("the trial of this program does not answer: it has ended")
        return str(json.loads(answer)["answer"])


@dataclass(slots=True, kw_only=True)
class ProgramTrial:
    """The Trial of a program that `command:` started; the same one on every rank."""

    number: int
    params: Mapping[str, object]
    args: Mapping[str, object] = field(default_factory=dict)
    metrics: Sequence[str]
    seed: int
    dir: Path
    cpus: int
    attempt: int
    rank: int
    world: int
    line: Line
    note: Path  # is there once the trial shall save itself
    parent_dir: Path | None = None
    hands_on: bool = False
    _prune: bool = field(default=False, init=False)
    _asked: bool = field(default=False, init=False)
    _calls: int = field(default=0, init=False)

    @property
    def resumed(self) -> bool:
        return self.attempt > 1

    def report(self, value: float, step: int, **extra: float) -> None:
        """As `Trial.report`. Call it on every rank: rank 0's value counts, all hear the answer."""
        values = {name: float(number) for name, number in extra.items()}
        said = {"kind": "report", "step": int(step), "value": float(value), "values": values}
        self._prune = self._say(said) == PRUNE

    def should_prune(self) -> bool:
        return self._prune

    def should_checkpoint(self) -> bool:
        """As `Trial.should_checkpoint`. Every rank's n-th call gives the same answer."""
        if self._asked:
            return True
        if self.world == 1:
            self._asked = self.note.exists()
        else:
            self._calls += 1
            said = {"kind": "checkpoint", "call": self._calls}
            self._asked = self._say(said) == CHECKPOINT
        return self._asked

    def finish(self, outcome: Outcome) -> None:
        """Gives the result: one number, one a metric, or a mapping by name."""
        plain = outcome
        if isinstance(outcome, Mapping):
            plain = {name: float(value) for name, value in outcome.items()}
        elif isinstance(outcome, Sequence):
            plain = [float(value) for value in outcome]
        self._say({"kind": "result", "outcome": plain})

    def end(self, reason: Pruned | Checkpointed | Infeasible) -> None:
        """Says why the program is about to leave without a result."""
        self._say({"kind": type(reason).__name__, "why": str(reason)})

    def _say(self, said: Mapping[str, object]) -> str:
        return self.line.ask({**said, "rank": self.rank, "stays": True})


def current_trial(environ: Mapping[str, str] = os.environ) -> ProgramTrial:
    """The trial that this program was started for. Raises ConfigError outside of one."""
    missing = [name for name in ("HPOCTL_SOCKET", "HPOCTL_PARAMS") if name not in environ]
    if missing:
        raise ConfigError(
            f"this program runs outside of a trial ({missing[0]} is not set): name it under"
            " 'command:' of a sweep, and 'hpoctl run' it"
        )
    rank, world = rank_of(environ)
    return ProgramTrial(
        number=int(environ["HPOCTL_TRIAL"]),
        params=json.loads(Path(environ["HPOCTL_PARAMS"]).read_text(encoding="utf-8")),
        args=json.loads(Path(environ["HPOCTL_ARGS"]).read_text(encoding="utf-8")),
        metrics=environ["HPOCTL_METRICS"].split(),
        seed=int(environ["HPOCTL_SEED"]),
        dir=Path(environ["HPOCTL_TRIAL_DIR"]),
        cpus=max(1, int(environ["HPOCTL_CPUS"]) // world),
        attempt=int(environ["HPOCTL_ATTEMPT"]),
        rank=rank,
        world=world,
        line=Line(address=environ["HPOCTL_SOCKET"]),
        note=Path(environ["HPOCTL_CHECKPOINT"]),
        parent_dir=Path(left) if (left := environ.get("HPOCTL_PARENT_DIR")) else None,
        hands_on=environ.get("HPOCTL_HANDS_ON") == "1",
    )


def tell(values: Mapping[str, float | str], step: int | None, environ: Mapping[str, str]) -> str:
    """Gives values from a program that is not Python's, once a process; what it should do next.

    The value `infeasible` is a text: why its parameters cannot be used.
    Raises ConfigError outside of a trial.
    """
    address = environ.get("HPOCTL_SOCKET")
    if address is None:
        raise ConfigError("hpoctl tell works inside a trial: HPOCTL_SOCKET is not set")
    said: dict[str, object] = {"kind": "result", "outcome": values}
    if INFEASIBLE in values:
        said = {"kind": Infeasible.__name__, "why": values[INFEASIBLE]}
    elif step is not None:
        said = {"kind": "report", "step": step, "values": values}
    return Line(address=address).ask({**said, "rank": rank_of(environ)[0]})


def run(objective: Objective) -> None:
    """Runs an objective as a program: `if __name__ == "__main__": run(objective)`.

    So one function serves `objective: train:objective` and `command: [torchrun, train.py]`. What it
    returns is the result; with Pruned, Infeasible or Checkpointed the program leaves in peace.
    """
    trial = current_trial()
    try:
        trial.finish(objective(trial))
    except (Pruned, Checkpointed, Infeasible) as reason:
        trial.end(reason)


def leave(trial: Trial, reason: Pruned | Checkpointed) -> None:
    """Ends a trial in the midst of a library's loop: an objective by raising, a program itself."""
    if isinstance(trial, ProgramTrial):
        trial.end(reason)
        raise SystemExit(0)  # not the exception: it would be an exit code, and a traceback
    raise reason
