"""Leases: who is silent for too long is found in time, and nobody who could not speak is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpoctl.lease import Watch
from hpoctl.record import WorkerId, WorkerRecord

LEASE_S = 60.0
ONE = WorkerId("7_1", 1)


def worker(seen_at: float, ended_at: float | None = None) -> WorkerRecord:
    return WorkerRecord(
        task="7_1",
        node="n1",
        pid=1,
        gpus=1,
        started_at=1.0,
        seen_at=seen_at,
        ended_at=ended_at,
    )


@given(died_at=st.floats(0, 100), phase=st.floats(0, LEASE_S / 4), skew=st.floats(-1e6, 1e6))
def test_a_dead_worker_is_found_within_the_lease_and_a_look(
    died_at: float, phase: float, skew: float
) -> None:
    watch, found_at, now = Watch(LEASE_S), None, phase
    while found_at is None:
        last_beat = min(now, died_at) // watch.beat_s * watch.beat_s
        if watch.look([worker(last_beat + skew)], now):
            found_at = now
        now += watch.beat_s
    assert died_at <= found_at <= max(died_at, phase) + LEASE_S + watch.beat_s


@given(delays=st.lists(st.floats(0, LEASE_S / 4), min_size=1, max_size=40))
def test_a_worker_that_beats_in_time_is_never_found(delays: list[float]) -> None:
    watch = Watch(LEASE_S)
    for number, delay in enumerate(delays):
        now = number * watch.beat_s
        assert not watch.look([worker(now + delay)], now)


def test_after_an_outage_everybody_has_a_whole_lease_again() -> None:
    watch = Watch(LEASE_S)
    for now in (0.0, 15.0, 30.0):
        assert not watch.look([worker(0.0)], now)
    assert not watch.look([worker(0.0)], 100.0)  # nobody could look in between
    assert not watch.look([worker(0.0)], 115.0)
    assert [watch.look([worker(0.0)], now) for now in (130.0, 145.0)] == [set(), {ONE}]


def test_a_worker_that_has_ended_is_not_silent() -> None:
    watch = Watch(LEASE_S)
    for now in range(0, 200, 15):
        assert not watch.look([worker(0.0, ended_at=5.0)], float(now))
