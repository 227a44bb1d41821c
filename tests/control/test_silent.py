"""The wait for a sign of life ends, whatever becomes of the worker meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from hpoctl.control.repair import _silent
from hpoctl.record import WorkerRecord
from hpoctl.study.store import Store

SUSPECT = WorkerRecord(task="7_0", node="n1", pid=1, gpus=0, started_at=1.0, seen_at=5.0, trial=3)


class _Store:
    def __init__(self, worker: WorkerRecord) -> None:
        self.worker = worker

    def workers(self) -> list[WorkerRecord]:
        return [self.worker]

    def rest(self) -> None:
        pass


@pytest.mark.timeout(20)
def test_a_suspect_that_somebody_else_wrote_off_is_waited_for_no_longer() -> None:
    store = cast(Store, _Store(replace(SUSPECT, ended_at=5.0, failed=True)))
    assert _silent(store, [SUSPECT], 0.4, lambda said: None) == ()


@pytest.mark.timeout(20)
def test_a_suspect_without_a_sign_is_silent() -> None:
    store = cast(Store, _Store(SUSPECT))
    assert _silent(store, [SUSPECT], 0.4, lambda said: None) == {SUSPECT.id}
