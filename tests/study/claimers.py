"""Processes that claim from one study at once, as the workers of a sweep do."""

from __future__ import annotations

import multiprocessing
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from typing import Any

from hpoctl.record import WorkerRecord
from hpoctl.study import store
from hpoctl.study.location import Location
from hpoctl.sweep import Sweep

Numbers = list[int]


def make_worker(task: str = "17_3", **known: Any) -> WorkerRecord:
    """A worker that started a while ago."""
    fields = {"node": "n1", "pid": 12, "gpus": 2, "started_at": 100.25, **known}
    return WorkerRecord(task=task, **fields)


_forkserver = multiprocessing.get_context("forkserver")
_forkserver.set_forkserver_preload(["hpoctl.study.store", "psycopg2", "pymysql"])


def claim_at_once(location: Location, sweep: Sweep, processes: int) -> list[Numbers]:
    """The trials that each process claimed and completed until it was given no more."""
    barrier, answers = _forkserver.Barrier(processes), _forkserver.Queue()
    claimers = [
        _forkserver.Process(target=_claim_all, args=(location, sweep, f"1_{i}", barrier, answers))
        for i in range(processes)
    ]
    for claimer in claimers:
        claimer.start()
    try:
        given: list[Numbers | str] = [answers.get(timeout=60) for _ in claimers]
    finally:
        for claimer in claimers:
            claimer.join(10)
            claimer.kill()
    errors = [answer for answer in given if isinstance(answer, str)]
    assert not errors, errors[0]
    return [answer for answer in given if isinstance(answer, list)]


def _claim_all(
    location: Location,
    sweep: Sweep,
    task: str,
    barrier: Barrier,
    answers: Queue[Numbers | str],
) -> None:
    numbers = []
    try:
        study = store.open_(location, sweep)
        worker = study.sign_on(make_worker(task))
        barrier.wait(60)
        while claim := study.claim(worker):
            numbers.append(claim.number)
            study.complete(claim, [float(claim.number)], {})
        answers.put(numbers)
    except BaseException as wrong:
        barrier.abort()
        answers.put(f"{type(wrong).__name__}: {wrong}")
        raise
