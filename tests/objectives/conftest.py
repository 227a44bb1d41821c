"""A trial without a worker, for the objectives."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest


@dataclass(kw_only=True)
class FakeTrial:
    """Keeps what is reported; prunes from the step `prune_at` on."""

    dir: Path
    params: Mapping[str, object]
    args: Mapping[str, object]
    number: int = 0
    seed: int = 1
    cpus: int = 1
    prune_at: int | None = None
    attempt: int = 1
    ends: bool = False
    ends_at: int | None = None  # the so many-th look, from 1, and all later ones
    looks: int = 0
    values: dict[int, float] = field(default_factory=dict)
    extras: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def report(self, value: float, step: int, **extra: float) -> None:
        assert step not in self.values, f"step {step} is reported twice"
        self.values[step] = value
        self.extras[step] = extra

    def should_prune(self) -> bool:
        return self.prune_at is not None and max(self.values) >= self.prune_at

    @property
    def resumed(self) -> bool:
        return self.attempt > 1

    def should_checkpoint(self) -> bool:
        self.looks += 1
        return self.ends or (self.ends_at is not None and self.looks >= self.ends_at)


class MakeTrial(Protocol):
    """Gives trials that share one folder."""

    def __call__(
        self,
        params: Mapping[str, object],
        args: Mapping[str, object],
        *,
        seed: int = 1,
        cpus: int = 1,
        prune_at: int | None = None,
    ) -> FakeTrial: ...


@pytest.fixture
def make_trial(tmp_path: Path) -> MakeTrial:
    """A trial in a folder whose name has a space in it."""
    folder = tmp_path / "the trial"
    folder.mkdir()

    def make(
        params: Mapping[str, object],
        args: Mapping[str, object],
        *,
        seed: int = 1,
        cpus: int = 1,
        prune_at: int | None = None,
    ) -> FakeTrial:
        return FakeTrial(
            dir=folder, params=params, args=args, seed=seed, cpus=cpus, prune_at=prune_at
        )

    return make


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective of ours that looks for anything outside this machine fails its test."""

    def refuse(*address: object) -> None:
        raise AssertionError(f"tried to reach {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
