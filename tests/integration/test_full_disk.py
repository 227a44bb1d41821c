"""A disk that is full while workers run: they wait, and no trial is lost."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from servers import wait_for

from hpoctl.study.location import Kind, Location
from integration.conftest import MakeSweep


@pytest.mark.parametrize("storage", [Kind.JOURNAL, Kind.SQLITE])
def test_workers_wait_for_room_and_run_every_trial_once(
    make_sweep: MakeSweep, small_disk: Path, storage: Kind
) -> None:
    sweep = make_sweep(storage, backend="local", mode="async", workers=2)
    sweep.location = Location(kind=storage, url=str(small_disk / "study"))
    sweep.rewrite(storage={str(storage): sweep.location.url})
    ballast = small_disk / "ballast"
    sweep.submit()
    wait_for(lambda: sweep.finished() >= 2, 60)

    def are_waiting() -> bool:
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        logs = [path.read_text() for path in sweep.run_dir.logs.glob("*.log")]
        return sum("trying again" in log for log in logs) == 2

    wait_for(are_waiting, 60)
    assert sweep.finished() < 24
    ballast.unlink()
    sweep.await_finished(24)
    sweep.assert_each_ran_once(24)
