"""Results on their way to the study: none is lost when their worker dies, none is told twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from study.claimers import make_worker
from workplace import Workplace, open_workplace, wait_until

from hpoctl import spool
from hpoctl.record import TrialState
from hpoctl.spool import Result
from hpoctl.study.protocol import Claim, Outcome

FIVE = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 5}}\n"
STORAGES = ["", "storage: {sqlite: study.db}\n"]
QUICK = "def objective(trial): return trial.params['a']\n"


@pytest.fixture(params=STORAGES, ids=["journal", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Workplace:
    return open_workplace(tmp_path, QUICK, FIVE + request.param)


def result(claim: Claim, **changes: Any) -> Result:
    known: dict[str, Any] = {
        "number": claim.number,
        "trial_id": claim.trial_id,
        "attempt": claim.attempt,
        "root": claim.root,
        "outcome": Outcome.COMPLETE,
        "at": 1_700_000_000.0,
        "values": [4.5],
        "attrs": {"note": "x"},
        **changes,
    }
    return Result(**known)


def claimed(place: Workplace) -> Claim:
    store = place.store()
    worker = store.sign_on(make_worker("7_0"))
    claim = store.claim(worker)
    assert claim is not None
    return claim


KILLED = """
import os, signal, sys
from hpoctl import spool
from hpoctl.rundir import RunDir
sys.path.insert(0, sys.argv[1])
from test_spool import result
from hpoctl.study.protocol import Claim

class Dying:
    def complete(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

number, trial_id, attempt, root = map(int, sys.argv[3:])
claim = Claim(number=number, params={}, trial_id=trial_id, attempt=attempt, root=root)
spool.tell(RunDir(__import__("pathlib").Path(sys.argv[2])), Dying(), result(claim))
"""


def test_a_worker_killed_before_the_study_has_its_result_loses_nothing(place: Workplace) -> None:
    claim = claimed(place)
    numbers = [str(n) for n in (claim.number, claim.trial_id, claim.attempt, claim.root)]
    tests = str(Path(__file__).parent)
    argv = [sys.executable, "-c", KILLED, tests, str(place.run_dir.path), *numbers]
    killed = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    place.work(HPOCTL_TASK="7_1")  # the next worker delivers it
    assert place.counts() == {TrialState.COMPLETE: 5}
    record = place.records()[claim.number]
    assert (record.values, record.attrs["note"], record.attrs["task"]) == ((4.5,), "x", "7_0")
    assert not [*place.run_dir.spool.glob("*")]


def test_a_result_told_twice_counts_once(place: Workplace) -> None:
    told = result(claimed(place))
    for _ in range(2):
        spool.tell(place.run_dir, place.store(), told)
    assert "late_values" not in place.records()[0].attrs
    assert place.records()[0].values == (4.5,)


def test_a_result_of_a_trial_that_waits_again_is_taken(place: Workplace) -> None:
    claim = claimed(place)
    assert place.store().return_lost(lambda worker: True) == [0]
    spool.tell(place.run_dir, place.store(), result(claim))
    assert place.counts() == {TrialState.COMPLETE: 1, TrialState.WAITING: 4}


def test_a_result_of_a_trial_that_another_one_runs_is_kept_beside_it(place: Workplace) -> None:
    first = claimed(place)
    place.store().return_lost(lambda worker: True)
    second = claimed(place)
    assert (second.number, second.attempt) == (first.number, 2)
    spool.tell(place.run_dir, place.store(), result(first))
    assert place.counts() == {TrialState.RUNNING: 1, TrialState.WAITING: 4}
    spool.tell(place.run_dir, place.store(), result(second, values=[7.0]))
    record = place.records()[0]
    assert (record.values, record.attrs["late_values"]) == ((7.0,), [4.5])


SLOW = """
import time
from pathlib import Path
def objective(trial):
    Path(f"started-{trial.number}-{trial.params['a']}").touch()
    while not Path(f"go-{trial.number}").exists():
        time.sleep(0.02)
    return 1.0
"""


@pytest.mark.parametrize("storage", STORAGES, ids=["journal", "sqlite"])
def test_a_busy_worker_gives_the_trial_of_a_killed_one_back(tmp_path: Path, storage: str) -> None:
    two = FIVE.replace("max: 5", "max: 2") + "lease: 2s\n" + storage
    place = open_workplace(tmp_path, SLOW, two)
    first = place.start(HPOCTL_TASK="7_0")
    wait_until((tmp_path / "started-0-1").exists)
    second = place.start(HPOCTL_TASK="7_1")
    wait_until((tmp_path / "started-1-2").exists)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    wait_until(lambda: place.counts() == {TrialState.RUNNING: 1, TrialState.WAITING: 1})
    (tmp_path / "started-0-1").unlink()
    for number in (0, 1):
        (tmp_path / f"go-{number}").touch()
    printed, _ = second.communicate(timeout=60)
    assert second.returncode == 0, printed
    assert place.counts() == {TrialState.COMPLETE: 2}
    assert place.records()[0].attrs["attempt"] == 2
    assert {w.task: w.reason for w in place.workers()}["7_0"] == "gone without a word"


@pytest.mark.parametrize("storage", STORAGES, ids=["journal", "sqlite"])
def test_a_stopped_worker_that_comes_back_neither_dies_nor_overwrites(
    tmp_path: Path, storage: str
) -> None:
    two = FIVE.replace("max: 5", "max: 2") + "lease: 2s\n" + storage
    place = open_workplace(tmp_path, SLOW, two)
    first = place.start(HPOCTL_TASK="7_0")
    wait_until((tmp_path / "started-0-1").exists)
    second = place.start(HPOCTL_TASK="7_1")
    wait_until((tmp_path / "started-1-2").exists)
    os.kill(first.pid, signal.SIGSTOP)
    wait_until(lambda: place.counts() == {TrialState.RUNNING: 1, TrialState.WAITING: 1})
    (tmp_path / "go-1").touch()
    wait_until(lambda: place.counts() == {TrialState.RUNNING: 1, TrialState.COMPLETE: 1})
    os.kill(first.pid, signal.SIGCONT)
    (tmp_path / "go-0").touch()
    for worker in (first, second):
        printed, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0, printed
    assert place.counts() == {TrialState.COMPLETE: 2}
    assert len(place.records()) == 2
