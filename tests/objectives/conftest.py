"""A trial without a worker, for the objectives."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
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
    metrics: Sequence[str] = ("eval_loss",)
    number: int = 0
    seed: int = 1
    cpus: int = 1
    prune_at: int | None = None
    attempt: int = 1
    ends: bool = False
    ends_at: int | None = None  # the so many-th look, from 1, and all later ones
    looks: int = 0
    parent_dir: Path | None = None
    hands_on: bool = False
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
        metrics: Sequence[str] = ("eval_loss",),
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
        metrics: Sequence[str] = ("eval_loss",),
    ) -> FakeTrial:
        return FakeTrial(
            dir=folder,
            params=params,
            args=args,
            seed=seed,
            cpus=cpus,
            prune_at=prune_at,
            metrics=metrics,
        )

    return make


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tokens and data sets are kept in a folder that this session alone has."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """An objective of ours that looks for anything outside this machine fails its test."""

    def refuse(*address: object) -> None:
        raise AssertionError(f"tried to reach {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def one_thread() -> None:
    """For tests that compute without a trial: after a pool of threads, no forked child trains."""
    import torch

    torch.set_num_threads(1)


class PretrainedFolders(Protocol):
    """The folder of a tiny trained model of a family, with its tokenizer."""

    def __call__(self, family: str, /) -> Path: ...


@pytest.fixture(scope="session")
def pretrained_folder(tmp_path_factory: pytest.TempPathFactory) -> PretrainedFolders:
    """Models of three layers, each trained once a session on the builtin text."""
    from hpoctl.objectives import causal_lm

    base = tmp_path_factory.mktemp("pretrained models")
    sizes = {"num_layers": 3, "hidden_size": 32, "num_heads": 4, "ff_dim": 64}
    args = {
        "dataset": {"builtin": "pydoc", "block_size": 32, "vocab_size": 400, "max_blocks": 300},
        "training": {"max_steps": 15, "learning_rate": 1e-2, "eval_strategy": "no"},
        "save": True,
    }

    def make(family: str) -> Path:
        folder = base / family
        if not folder.exists():
            folder.mkdir()
            model = {"model": {"from_scratch": family, "dropout": 0.0, **sizes}}
            causal_lm.objective(FakeTrial(dir=folder, params=model, args=args))
        return folder / "model"

    return make
