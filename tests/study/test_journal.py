"""The journal after kills, stops, torn lines, full disks; plain Optuna must read what is left."""

from __future__ import annotations

import json
import logging
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from servers import wait_for

from hpoctl.errors import StudyError
from hpoctl.study import store
from hpoctl.study.journal import JournalFile
from hpoctl.study.location import Kind, Location
from hpoctl.study.lock import FileLock
from study.claimers import make_worker
from study.conftest import MakeSweep
from study.journal_killing import append, appender, is_stopped, keys, send, stopping

KILL_POINTS = (
    "before the link",
    "holding the lock",
    "half a line",
    "no end of line",
    "before fsync",
    "before letting go",
)


def record(key: str) -> dict[str, Any]:
    return {"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {key: 1}}


def attrs(path: Path) -> list[str]:
    """What plain Optuna finds in the file."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    return [*storage.get_study_user_attrs(0)]


def has_ended_within(process: subprocess.Popen[str], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.returncode is not None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with one study and nothing else."""
    path = tmp_path / "a study.journal"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    optuna.create_study(study_name="s", storage=storage)
    return path


@pytest.mark.parametrize("point", KILL_POINTS)
def test_after_a_kill_the_next_writer_goes_on_at_once(path: Path, point: str) -> None:
    append(path, "first")
    append(path, "killed", point)
    append(path, "next")  # is given 8 s; Optuna waits for 30
    left = keys(path)
    assert left in (["first", "next"], ["first", "killed", "next"])
    assert attrs(path) == left


@pytest.mark.parametrize("point", ["before mending", "after mending"])
def test_a_kill_while_mending_leaves_the_rest_to_the_next(path: Path, point: str) -> None:
    append(path, "torn", "half a line")
    append(path, "killed", point)
    append(path, "next")
    assert attrs(path) == keys(path) == ["next"]


@pytest.mark.parametrize("point", ["half a line", "no end of line"])
def test_a_torn_last_line_is_not_read(path: Path, point: str) -> None:
    append(path, "torn", point)
    assert len(list(JournalFile(path).read_logs(0))) == 1
    assert [*JournalFile(path).read_logs(1)] == []


def test_a_study_with_a_torn_line_is_worked_off(tmp_path: Path, make_sweep: MakeSweep) -> None:
    place = Location(kind=Kind.JOURNAL, url=str(tmp_path / "study.journal"))
    sweep = make_sweep()
    points = [{"lr": 1e-3, "layers": n} for n in range(1, 13)]
    study = store.create(place, sweep, points, owner="a test")
    with place.path.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"ab')
    taken = []
    while claim := study.claim(make_worker("1_0")):
        study.complete(claim, [1.0], {})
        taken.append(claim.number)
    assert taken == [*range(12)]
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(place.path)))
    trials = optuna.load_study(study_name=sweep.study, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12


def test_a_record_that_optuna_wrote_behind_a_torn_line_is_found(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with path.open("ab") as file:
        file.write(b'{"op_code":5,"worker_id":"ab')
    JournalFileBackend(str(path)).append_logs([record("behind")])
    with pytest.raises(json.JSONDecodeError):
        keys(path)
    journal = JournalFile(path)
    assert [found.get("user_attr") for found in journal.read_logs(0)] == [None, {"behind": 1}]
    assert "torn bytes at byte" in caplog.text
    journal.append_logs([record("next")])
    assert attrs(path) == keys(path) == ["behind", "next"]


def test_a_torn_line_that_somebody_ended_is_skipped_and_mended(path: Path) -> None:
    append(path, "torn", "half a line")
    with path.open("ab") as file:
        file.write(b"\n")
    append(path, "after")
    journal = JournalFile(path)
    assert [found.get("user_attr") for found in journal.read_logs(0)] == [None, {"after": 1}]
    assert [*journal.read_logs(2)] == []
    journal.append_logs([record("next")])
    assert [found["user_attr"] for found in journal.read_logs(2)] == [{"next": 1}]
    assert attrs(path) == ["after", "next"]


def test_zeros_that_a_power_cut_left_are_mended(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(100_000))
    append(path, "next")
    assert attrs(path) == ["next"]


def test_reading_goes_on_where_it_ended_and_starts_anew_when_asked(path: Path) -> None:
    journal = JournalFile(path)
    for i in range(5):
        journal.append_logs([record(str(i)), record(f"{i}b")])
    assert len([*journal.read_logs(0)]) == 11
    append(path, "new")
    assert [found["user_attr"] for found in journal.read_logs(11)] == [{"new": 1}]
    assert [found["user_attr"] for found in journal.read_logs(10)] == [{"4b": 1}, {"new": 1}]
    reading = journal.read_logs(1)
    assert next(reading)["user_attr"] == {"0": 1}
    assert next(journal.read_logs(2))["user_attr"] == {"0b": 1}


def test_a_deleted_journal_is_not_made_again(path: Path) -> None:
    journal = JournalFile(path)
    path.unlink()
    with pytest.raises(StudyError, match="no such file: was the study deleted"):
        journal.append_logs([record("lost")])
    assert not path.exists()


def test_a_live_holder_keeps_others_out(path: Path) -> None:
    with FileLock(path).held():
        waiting = appender(path, "late", 1, "300")
        assert not has_ended_within(waiting, 1)
        assert keys(path) == []
    assert waiting.communicate(timeout=20)[0] == "late-0\n"
    assert keys(path) == ["late-0"]


@pytest.mark.parametrize("kind", ["optuna", "300"])
def test_optunas_lock_and_ours_keep_each_other_out(path: Path, kind: str) -> None:
    theirs = JournalFileSymlinkLock(str(path))
    ours = FileLock(path)
    if kind == "optuna":
        with ours.held():
            waiting = appender(path, "late", 1, kind)
            assert not has_ended_within(waiting, 3)
    else:
        theirs.acquire()
        waiting = appender(path, "late", 1, kind)
        assert not has_ended_within(waiting, 1)
        theirs.release()
    assert waiting.communicate(timeout=20)[0] == "late-0\n"
    assert keys(path) == ["late-0"]


def test_optuna_gets_past_a_holder_of_ours_that_was_killed(path: Path) -> None:
    append(path, "killed", "half a line")
    lock = JournalFileSymlinkLock(str(path), grace_period=3)
    lock.acquire()
    lock.release()
    append(path, "next")
    assert attrs(path) == ["next"]


@pytest.mark.parametrize("link", ["another-node", "file"])
def test_a_lock_of_another_node_or_kind_is_waited_for_and_then_taken(path: Path, link: str) -> None:
    lock = FileLock(path, silent_s=0.5)
    if link == "file":
        lock.link.touch()
    else:
        lock.link.symlink_to(f"{path.name}.lock-{link}")
    begun = time.monotonic()
    with lock.held():
        assert time.monotonic() - begun > 0.5
    assert not lock.link.is_symlink()
    assert not lock.link.exists()


@pytest.mark.parametrize("point", ["stopped before its check", "stopped after its check"])
def test_a_stopped_holder_is_passed_over_and_does_no_harm_later(path: Path, point: str) -> None:
    stopped = stopping(path, "stopped", point)
    wait_for(lambda: is_stopped(stopped), 20)
    journal = JournalFile(path, lock=FileLock(path, stopped_s=0.2))
    journal.append_logs([record("other")])
    assert keys(path) == ["other"]
    send(stopped, signal.SIGCONT)
    assert stopped.wait(20) == 0
    append(path, "next")
    assert attrs(path) == keys(path) == ["other", "stopped", "next"]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_each_record_is_there_once_whoever_is_killed_or_stopped(path: Path, seed: int) -> None:
    dice = random.Random(seed)
    running = [appender(path, f"w{i}", 50, "0.1") for i in range(6)]
    ended = [False] * 6
    try:
        wait_for(lambda: len(path.read_bytes()) > 2_000, 20)
        killed = set(dice.sample(range(6), 2))
        for _ in range(60):
            i = dice.randrange(6)
            send(running[i], signal.SIGSTOP)
            time.sleep(dice.uniform(0, 0.03))  # chance is the point here, not a condition
            if i in killed and dice.random() < 0.15:
                send(running[i], signal.SIGKILL)
            if dice.random() < 0.2:
                time.sleep(0.15)  # longer than a stopped holder is waited for
            send(running[i], signal.SIGCONT)
        told = [process.communicate(timeout=60)[0].split() for process in running]
        ended = [True] * 6
    finally:
        for process, over in zip(running, ended, strict=True):
            if not over:
                process.kill()
    for i, process in enumerate(running):
        assert process.returncode in ((0, -signal.SIGKILL) if i in killed else (0,))
    append(path, "last")
    left = keys(path)
    assert len(left) == len(set(left))
    assert {key for keys_told in told for key in keys_told} <= set(left)
    assert len(left) <= 301
    assert set(attrs(path)) == set(left)


def test_workers_of_optuna_and_ours_share_a_journal(path: Path) -> None:
    running = [appender(path, f"w{i}", 40, "optuna" if i % 2 else "10") for i in range(4)]
    told = [process.communicate(timeout=60)[0].split() for process in running]
    assert sorted(keys(path)) == sorted(key for keys_told in told for key in keys_told)
    assert len(attrs(path)) == 160


def test_a_full_disk_is_waited_for(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path, ballast = small_disk / "study.journal", small_disk / "ballast"
    path.touch()
    journal = JournalFile(path, patience_s=30)
    journal.append_logs([record("first")])
    ballast.write_bytes(bytes(248 * 1024))
    errors: list[BaseException] = []

    def write() -> None:
        try:
            for i in range(20):
                journal.append_logs([{**record(str(i)), "more": "x" * 1_000}])
        except BaseException as wrong:
            errors.append(wrong)

    writer = threading.Thread(target=write)
    writer.start()
    wait_for(lambda: "No space left on device: trying again" in caplog.text, 20)
    assert len(list(JournalFile(path).read_logs(0))) < 21
    ballast.unlink()
    writer.join(40)
    assert errors == []
    assert keys(path) == ["first", *map(str, range(20))]


def test_a_disk_that_stays_full_is_named_and_the_journal_stays_whole(small_disk: Path) -> None:
    path = small_disk / "study.journal"
    path.touch()
    journal = JournalFile(path, patience_s=0.2)
    written = []
    with pytest.raises(StudyError) as refused:
        for i in range(1_000):
            journal.append_logs([{**record(str(i)), "more": "x" * 1_000}])
            written.append(str(i))
    assert str(refused.value) == f"{path}: No space left on device"
    assert keys(path) == written
    assert len([*JournalFileBackend(str(path)).read_logs(0)]) == len(written)


# Needs no root: a limit on the size of files cuts a write in its middle as a full disk does.
_LIMITED = """
import resource, signal, sys
from pathlib import Path
from hpoctl.errors import StudyError
from hpoctl.study.journal import JournalFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 150, resource.RLIM_INFINITY))
journal = JournalFile(path, patience_s=0.2)
for key in ("fits", "does-not"):
    record = {"op_code": 2, "worker_id": "w" * 30, "study_id": 0, "user_attr": {key: 1}}
    try:
        journal.append_logs([record])
    except StudyError as wrong:
        print(wrong)
"""


def test_a_write_that_is_cut_in_its_middle_is_taken_back(path: Path) -> None:
    command = [sys.executable, "-c", _LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.stdout == f"{path}: File too large\n", done.stderr
    assert path.read_bytes().endswith(b" ")
    append(path, "next")
    assert attrs(path) == keys(path) == ["fits", "next"]
