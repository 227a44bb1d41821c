"""Whole sweeps: written, submitted by the command line, awaited, and read back with Optuna."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from conftest import Hpoctl
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from servers import Slurm, Task, wait_for

from hpoctl.record import Summary
from hpoctl.rundir import RunDir, slug
from hpoctl.study.connect import engine_options, engine_url
from hpoctl.study.location import Kind, Location, parse_url
from hpoctl.study.summary import summarize

SWEEP: dict[str, object] = {
    "study": "a-study",
    "objective": "hpoctl.objectives.toy",
    "objective_args": {"seconds": 0.2, "steps": 2},
    "metrics": [{"name": "loss", "goal": "minimize"}],
    "search_space": {
        "lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1},
        "layers": {"type": "int", "min": 1, "max": 9},
    },
    "budget": {"trials": 24},
    "resources": {"time": "5m", "cpus": 1},
}


@dataclass(slots=True, kw_only=True)
class Sweep:
    """A sweep file in a folder of its own, and the study that comes of it."""

    hpoctl: Hpoctl
    slurm: Slurm | None
    location: Location
    tree: dict[str, object]
    said: list[str] = field(default_factory=list)

    @property
    def study(self) -> str:
        return str(self.tree["study"])

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.hpoctl.folder / "runs" / slug(self.study))

    def ask(self, *args: str | Path, code: int = 0) -> str:
        """Runs a command of hpoctl and keeps all that it said."""
        done = self.hpoctl(*args, code=code, timeout_s=90)
        self.said += [done.stdout, done.stderr]
        return done.stdout

    def ask_json(self, *args: str | Path) -> Any:
        """The answer of a command with --json."""
        return json.loads(self.ask(*args, "--json"))

    def rewrite(self, **changes: object) -> None:
        """Replaces keys of the sweep file."""
        self.tree.update(changes)
        write(self.hpoctl.folder / "sweep.yaml", self.tree)

    def submit(self) -> list[str]:
        """Submits the sweep file and gives the ids of its arrays."""
        return [array["id"] for array in self.ask_json("submit", "sweep.yaml")["arrays"]]

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask_json("status", self.study)
        return answer

    def summary(self) -> Summary:
        return summarize(self.location, self.study)

    def finished(self) -> int:
        """How many trials have ended."""
        counts = self.summary().counts
        return sum(counts[state] for state in counts if state not in ("waiting", "running"))

    def await_workers_left(self, deadline_s: float = 90) -> None:
        """Until every worker that ever started has written down that it left."""

        def left() -> bool:
            return all(worker.ended_at is not None for worker in self.summary().workers)

        wait_for(left, deadline_s, f"all workers left; {self.summary()}")

    def await_finished(self, trials: int, deadline_s: float = 120) -> None:
        """Until so many trials have ended and all workers left."""
        wait_for(lambda: self.finished() >= trials, deadline_s, f"{trials} trials ended")
        self.await_workers_left()

    def trials(self) -> list[FrozenTrial]:
        """All trials, as Optuna reads them."""
        storage: JournalStorage | RDBStorage
        if self.location.kind is Kind.JOURNAL:
            storage = JournalStorage(JournalFileBackend(self.location.url))
        else:
            options = engine_options(self.location)
            storage = RDBStorage(engine_url(self.location), engine_kwargs=options)
        return optuna.load_study(study_name=self.study, storage=storage).trials

    def attrs(self) -> list[dict[str, Any]]:
        """What was kept with each trial, by number."""
        return [trial["attrs"] for trial in self.ask_json("trials", self.study)]

    def assert_each_ran_once(self, trials: int) -> None:
        """Exactly this many trials, each run by one worker, once, to its end."""
        found = self.trials()
        assert [trial.number for trial in found] == list(range(trials))
        assert {trial.state for trial in found} == {TrialState.COMPLETE}
        assert sum(worker.trials for worker in self.summary().workers) == trials
        workers = {worker.task for worker in self.summary().workers}
        assert {attrs["task"] for attrs in self.attrs()} <= workers
        assert {attrs["attempt"] for attrs in self.attrs()} == {1}
        for trial in found:
            reports = (self.run_dir.trial(trial.number) / "metrics.jsonl").read_text()
            assert reports.count("\n") == len(trial.intermediate_values) == 2

    def await_tasks(self, ids: Sequence[str], tasks: int, deadline_s: float = 60) -> list[Task]:
        """The tasks of these arrays once accounting says of all that they are completed."""
        assert self.slurm is not None
        slurm = self.slurm

        def completed() -> bool:
            return [task.state for task in slurm.tasks(*ids)] == ["COMPLETED"] * tasks

        wait_for(completed, deadline_s, f"{tasks} tasks of {ids} completed: {slurm.tasks(*ids)}")
        return slurm.tasks(*ids)


@dataclass(frozen=True, slots=True)
class MakeSweep:
    """Writes sweep files."""

    hpoctl: Hpoctl
    request: pytest.FixtureRequest

    def __call__(self, storage: str, *, backend: str = "slurm", **changes: object) -> Sweep:
        """A sweep on a storage of this kind: postgresql, mariadb, sqlite or journal."""
        tree = {**SWEEP, "backend": backend, **changes}
        folder = self.hpoctl.folder
        if storage in ("postgresql", "mariadb"):
            url: str = self.request.getfixturevalue(f"{storage}_url")
            self.hpoctl.env["HPOCTL_STORAGE"] = url
            location = parse_url(url, "a test")
            tree["storage"] = {"url_env": "HPOCTL_STORAGE"}
        else:
            kind = Kind(storage)
            location = Location(kind=kind, url=str(folder / f"study.{storage}"))
            tree["storage"] = {storage: f"study.{storage}"}
        slurm: Slurm | None = None
        if backend == "slurm":
            slurm = self.request.getfixturevalue("slurm")
            assert slurm is not None
            self.hpoctl.env.update(slurm.env)
        sweep = Sweep(hpoctl=self.hpoctl, slurm=slurm, location=location, tree=tree)
        write(folder / "sweep.yaml", tree)
        return sweep


def write(path: Path, tree: Mapping[str, object]) -> None:
    """Writes a sweep file; JSON is YAML too."""
    given = {key: value for key, value in tree.items() if value is not None}
    path.write_text(json.dumps(given, indent=1), encoding="utf-8")


@pytest.fixture
def make_sweep(hpoctl: Hpoctl, request: pytest.FixtureRequest) -> MakeSweep:
    """A sweep of 24 quick trials, in which every key may be replaced."""
    return MakeSweep(hpoctl, request)
