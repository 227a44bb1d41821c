"""What an objective may import: its Trial, and Pruned, Infeasible and Checkpointed, to be raised.

An objective runs in a child process of the worker. It never sees the study or its password:
`report` crosses a pipe to the worker, which writes to the study and answers "prune" or "go on".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Outcome = float | Sequence[float] | Mapping[str, float]


class Pruned(Exception):
    """Raised by an objective to end its trial early as PRUNED."""


class Infeasible(Exception):
    """Raised by an objective whose parameters no trial can use, such as sizes that do not fit.

    Its trial ends as infeasible, and a sampler that learns keeps away from such points.
    """


class Checkpointed(Exception):
    """Raised by an objective that was asked to save itself, and has: its trial goes on later."""


class Trial(Protocol):
    """One trial, as its objective sees it."""

    @property
    def number(self) -> int:
        """Number in the study, from 0."""

    @property
    def params(self) -> Mapping[str, object]:
        """The parameters, nested as in the sweep file: `trial.params["lora"]["r"]`."""

    @property
    def args(self) -> Mapping[str, object]:
        """`objective_args` of the sweep file, as they stand there."""

    @property
    def metrics(self) -> Sequence[str]:
        """Names of the sweep's metrics, in their order: `report` gives the first."""

    @property
    def seed(self) -> int:
        """Seed of this trial, from the sweep's seed and the trial's number; below 2**31."""

    @property
    def dir(self) -> Path:
        """Folder for checkpoints and other files; the same one if the trial is run again."""

    @property
    def parent_dir(self) -> Path | None:
        """What the trial that this one goes on from left in its `dir`: to be read, not written.

        Only in a population (`sampler: pbt`), and None for those that begin with nothing.
        """

    @property
    def hands_on(self) -> bool:
        """Whether another trial may go on from what this one leaves in `dir`."""

    @property
    def cpus(self) -> int:
        """CPU cores that the trial may use."""

    def report(self, value: float, step: int, **extra: float) -> None:
        """Give the first metric's value at `step`; `extra` values go to `metrics.jsonl` only.

        Where metrics have weights, the others are given too, by name: a pruner compares the sum.
        """

    def should_prune(self) -> bool:
        """Whether the pruner, asked at the last report, wants the trial to end."""

    @property
    def attempt(self) -> int:
        """Which run of this trial it is, from 1."""

    @property
    def resumed(self) -> bool:
        """Whether it ran before: a checkpoint of it may lie in `dir`."""

    def should_checkpoint(self) -> bool:
        """Whether the allocation ends soon: save to `dir` and raise Checkpointed.

        True from then on. Costs nothing, so ask at every step.
        """


class Objective(Protocol):
    """Runs one trial and returns its value: one number, one a metric, or a mapping by name.

    Names in a mapping that are not metrics of the sweep are kept with the trial as a record; what
    a constraint names must be there.
    """

    def __call__(self, trial: Trial, /) -> Outcome: ...


def derive_seed(study_seed: int, number: int) -> int:
    """Seed of trial `number`: the same on every worker and every retry; below 2**31."""
    digest = hashlib.sha256(f"{study_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
