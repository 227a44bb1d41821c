"""A run directory without its study, and programs of a batch system that are not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Protocol

import pytest

from hpoctl.backends.slurm import queue
from hpoctl.rundir import Run, RunDir
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Mode


class FakeProgram(Protocol):
    """Puts a bash script of this name first on PATH."""

    def __call__(self, name: str, text: str) -> None: ...


@pytest.fixture
def fake_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def fake(name: str, text: str) -> None:
        program = folder / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)

    return fake


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """An empty run directory whose name has what a shell would trip over."""
    made = RunDir(tmp_path / 'my "run" 100% $(x)')
    run = Run(
        study="s",
        mode=Mode.BATCH,
        backend=BackendName.LOCAL,
        trials=3,
        arrays=(),
        overrides=(),
        workdir=tmp_path,
        created_at=0.0,
    )
    made.create("study: s\n", run)
    return made


def make_sweep(**keys: object) -> Sweep:
    """A sweep of three trials; further keys as in the sweep file."""
    known = {
        "study": "s",
        "objective": "m:f",
        "search_space": SearchSpace({"a": Int(low=1, high=9)}),
        "budget": {"trials": 3},
        "resources": {"python": sys.executable},
    }
    return Sweep.model_validate({**known, **keys})


def squeue_line(
    *,
    job: str,
    index: str,
    state: str,
    restarts: str = "0",
    start: str = "N/A",
    end: str = "N/A",
    tres: str = "cpu=1,mem=100M,node=1,billing=1",
    node: str = "",
    reason: str = "None",
) -> str:
    """A line of squeue in the format that hpoctl asks for."""
    cells = (job, index, state, restarts, start, end, tres, node, reason)
    widths = [int(column.rpartition(":")[2]) for column in queue.FORMAT.split(",")]
    return "".join(cell[:width].ljust(width) for cell, width in zip(cells, widths, strict=True))
