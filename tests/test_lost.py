"""Who is gone: Slurm is asked about the silent, believed twice; silence decides the rest."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpoctl.lost import Observer
from hpoctl.record import Fate, WorkerId, WorkerRecord
from hpoctl.rundir import RunDir

LEASE_S = 60.0
DEAD = WorkerId("7_1", 1)


def worker(seen_at: float = 0.0, task: str = "7_1") -> WorkerRecord:
    return WorkerRecord(task=task, node="n1", pid=1, gpus=1, started_at=0.0, seen_at=seen_at)


@dataclass
class Slurm:
    """Gives everybody this fate."""

    fate: Fate
    asked: list[list[str]] = field(default_factory=list)
    clock: itertools.count[int] = field(default_factory=itertools.count)

    def __call__(
        self,
        workers: Sequence[WorkerRecord],
        run_dir: RunDir,
        *,
        newer_than: float,
        patience_s: float,
    ) -> tuple[float, Mapping[WorkerId, Fate]]:
        self.asked.append([worker.task for worker in workers])
        return next(self.clock), {worker.id: self.fate for worker in workers}


def observer(slurm: Slurm) -> Observer:
    return Observer(run_dir=RunDir(Path("/r")), fates=slurm, lease_s=LEASE_S)


def found_at(slurm: Slurm, until: float = 1000.0) -> float | None:
    """When a worker that never gives a sign of life again is found, in looks of a beat."""
    watching, now = observer(slurm), 0.0
    while now < until:
        if watching.look([worker()], now):
            return now
        now += watching.beat_s
    return None


def test_slurm_is_not_asked_about_workers_that_give_signs_of_life() -> None:
    slurm = Slurm(Fate.GONE)
    watching = observer(slurm)
    for now in range(0, 300, 15):
        assert not watching.look([worker(seen_at=now)], now)
    assert slurm.asked == []


def test_a_worker_that_slurm_knows_as_gone_is_found_within_its_lease_by_the_second_answer() -> None:
    slurm = Slurm(Fate.GONE)
    assert found_at(slurm) == 0.75 * LEASE_S
    assert slurm.asked == [["7_1"], ["7_1"]]


def test_one_answer_of_slurm_is_not_enough() -> None:
    slurm = Slurm(Fate.GONE)
    watching = observer(slurm)
    for now in (0.0, 15.0, 30.0):
        assert not watching.look([worker()], now)
    slurm.fate = Fate.KEPT
    assert not watching.look([worker()], 45.0)
    slurm.fate = Fate.GONE
    assert not watching.look([worker()], 60.0)
    assert watching.look([worker()], 75.0) == {DEAD}


def test_a_suspended_worker_keeps_its_trial_however_long() -> None:
    assert found_at(Slurm(Fate.KEPT)) is None


def test_a_worker_that_hangs_in_a_task_that_runs_loses_its_trial_by_its_lease() -> None:
    assert found_at(Slurm(Fate.RUNNING)) == 0.75 * LEASE_S


def test_where_slurm_has_forgotten_or_is_not_there_the_lease_decides() -> None:
    assert found_at(Slurm(Fate.FORGOTTEN)) == 0.75 * LEASE_S


def test_a_slurm_that_is_away_holds_everything_up_for_some_leases_only() -> None:
    found = found_at(Slurm(Fate.UNKNOWN))
    assert found is not None
    assert 3 * LEASE_S <= found <= 5 * LEASE_S


def test_a_look_without_a_lease_believes_the_second_answer_too() -> None:
    slurm = Slurm(Fate.GONE)
    watching = observer(slurm)
    assert watching.ask([worker()]) == {DEAD: Fate.UNKNOWN}
    assert watching.ask([worker()]) == {DEAD: Fate.GONE}
