"""What one client does not do to another: both tell, one is killed, one waits for a full disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from hpoctl.errors import Unreachable
from hpoctl.plan import queue
from hpoctl.record import TrialState
from hpoctl.study import store
from hpoctl.study.location import Kind, Location
from hpoctl.study.protocol import Claim
from study.claimers import make_worker
from study.conftest import MakeSweep


def test_a_result_that_two_tell_at_once_counts_once(
    location: Location, make_sweep: MakeSweep
) -> None:
    """As a worker tells it, and another one that has found it in the spool."""
    sweep = make_sweep(budget={"trials": 40})
    first = store.create(location, sweep, queue(sweep), owner="a test")
    worker = first.sign_on(make_worker())
    claims = [claim for _ in range(40) if (claim := first.claim(worker)) is not None]
    first.rest()
    barrier, wrong = threading.Barrier(2), []

    def tell(claims: list[Claim]) -> None:
        mine = store.open_(location, sweep)
        try:
            for claim in claims:
                barrier.wait(60)
                mine.complete(claim, [float(claim.number)], {"note": 1}, at=1_000.0)
        except BaseException as raised:
            barrier.abort()
            wrong.append(raised)
        finally:
            mine.rest()

    tellers = [threading.Thread(target=tell, args=(claims,)) for _ in range(2)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(120)
    assert wrong == []
    records = first.records()
    assert [record.values for record in records] == [(float(n),) for n in range(40)]
    assert all("late_values" not in record.attrs for record in records)


# Claims a trial of a journal and is killed as soon as something of that is on disk.
_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hpoctl import config
from hpoctl.study import store
from hpoctl.study.location import Kind, Location
from study.claimers import make_worker
location = Location(kind=Kind.JOURNAL, url=sys.argv[2])
study = store.open_(location, config.parse(sys.argv[3], "sweep.yaml"))
worker = study.sign_on(make_worker("7_0"))
os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)
study.claim(worker)
"""


def test_a_worker_killed_in_the_middle_of_a_claim_leaves_no_trial_without_an_owner(
    tmp_path: Path, make_sweep: MakeSweep
) -> None:
    location = Location(kind=Kind.JOURNAL, url=str(tmp_path / "study.journal"))
    sweep = make_sweep()
    study = store.create(location, sweep, queue(sweep), owner="a test")
    text = sweep.model_dump_json(include={"study", "objective", "seed"})
    space = '"search_space": {"lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1},'
    space += '"layers": {"type": "int", "min": 1, "max": 64}}, "budget": {"trials": 12}'
    tests = str(Path(__file__).parents[1])
    argv = [sys.executable, "-c", _KILLED, tests, location.url, f"{text[:-1]}, {space}}}"]
    killed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert study.records()[0].state is TrialState.RUNNING
    assert study.return_lost(lambda worker: worker.task == "7_0") == [0]
    again = study.claim(study.sign_on(make_worker("7_1")))
    assert again is not None
    assert (again.number, again.attempt) == (0, 2)


def test_a_sign_of_life_and_a_report_wait_for_no_full_disk(
    small_disk: Path, make_sweep: MakeSweep
) -> None:
    location = Location(kind=Kind.JOURNAL, url=str(small_disk / "study"))
    sweep = make_sweep()
    study = store.create(location, sweep, queue(sweep), owner="a test")
    worker = study.sign_on(make_worker())
    claim = study.claim(worker)
    assert claim is not None
    ballast = small_disk / "ballast"
    for size in (4_096, 1):
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(size))
    with pytest.raises(Unreachable):
        for _ in range(1_000):  # until the last page that the study had is full
            study.check_in(worker, patience_s=0.0)
    with pytest.raises(Unreachable):
        for step in range(1_000):
            study.report(claim, 1.0, step, patience_s=0.0)
    ballast.unlink()
    study.complete(claim, [1.0], {})
    assert study.records()[0].state is TrialState.COMPLETE
