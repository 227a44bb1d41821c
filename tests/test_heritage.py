"""Real workers on a population: what a trial gets of its parent, and what is left of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from workplace import Workplace, open_workplace, wait_until

from hpoctl import heritage
from hpoctl.integrations import checkpoints
from hpoctl.record import TrialRecord, TrialState

TWO = """
sampler: {name: pbt, population: 2}
budget: {trials: 8}
search_space: {lr: {type: uniform, min: 0.1, max: 1}}
lease: 2s
"""
COUNTS = """
import os, signal
from pathlib import Path
from hpoctl import heritage
from hpoctl.integrations import checkpoints

linked, links = heritage._link, []

def link(source, target):
    linked(source, target)
    links.append(source)
    if len(links) == 2 and Path("deadly").exists():
        os.rename("deadly", "was-deadly")
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

heritage._link = link

def objective(trial):
    assert trial.hands_on
    before = 0
    if trial.parent_dir is not None:
        before = int((trial.parent_dir / "steps").read_text())
        assert checkpoints.latest(trial.parent_dir).name == f"checkpoint-{before}"
    (trial.dir / "steps").write_text(str(before + 1))
    (trial.dir / f"checkpoint-{before + 1}").mkdir(exist_ok=True)
    (trial.dir / f"checkpoint-{before + 1}" / "weights").write_text("0 " * 1000)
    checkpoints.seal(trial.dir / f"checkpoint-{before + 1}")
    return 1 / (before + trial.params["lr"])
"""
WAITS = """
import time
from pathlib import Path

def objective(trial):
    while trial.number in (0, 1) and not Path(f"go-{trial.number}").exists():
        time.sleep(0.02)
    return trial.params["lr"]
"""


def steps(place: Workplace, record: TrialRecord) -> int:
    return int((place.run_dir.trial(record.number) / "steps").read_text())


def assert_lineage(place: Workplace) -> None:
    """Every trial has made one step more than its parent, whose number the study knows."""
    records = place.records()
    assert {record.state for record in records} == {TrialState.COMPLETE}
    for record in records:
        parent = record.attrs.get("parent")
        before = 0 if parent is None else steps(place, records[int(str(parent))])
        assert steps(place, record) == before + 1
    assert [record.attrs.get("parent") for record in records[:2]] == [None, None]
    assert all("parent" in record.attrs for record in records[2:])


def test_each_trial_goes_on_from_what_its_parent_left(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, COUNTS, TWO)
    with place.start(HPOCTL_TASK="7_0") as other:
        place.work(HPOCTL_TASK="7_1")
        other.communicate(timeout=60)
    assert_lineage(place)
    assert {worker.reason for worker in place.workers()} == {"no trial waits"}


def test_checkpoints_go_once_nobody_goes_on_from_them(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, COUNTS, TWO)
    place.work(HPOCTL_TASK="7_0")
    assert_lineage(place)
    left = {path.parent.name for path in place.run_dir.trials.glob("*/checkpoint-*")}
    assert left == {"00006", "00007"}  # the last of each member: the budget may be extended
    assert not list(place.run_dir.trials.glob("*/parent*"))


def test_a_worker_that_is_killed_while_it_hands_on_leaves_nothing_half(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, COUNTS, TWO)
    (tmp_path / "deadly").touch()
    with place.start(HPOCTL_TASK="7_0") as killed:
        killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    running = [one for one in place.records() if one.state is TrialState.RUNNING]
    (trial,) = running
    folder = place.run_dir.trial(trial.number)
    (draft,) = folder.glob("parent*")
    assert draft != heritage.place(folder), "half of it passes for the whole"
    assert "parent" in trial.attrs
    place.work(HPOCTL_TASK="7_0")
    assert_lineage(place)
    again = place.records()[trial.number]
    assert (again.attrs["attempt"], again.params) == (2, trial.params)
    assert again.attrs["parent"] == trial.attrs["parent"]
    assert not list(place.run_dir.trials.glob("*/parent*"))


def test_a_worker_waits_for_the_members_of_others_and_one_too_many_leaves(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, WAITS, TWO.replace("trials: 8", "trials: 6"))
    first, second = (place.start(HPOCTL_TASK=f"7_{i}") for i in range(2))
    wait_until(lambda: place.counts().get(TrialState.RUNNING) == 2)
    place.work(HPOCTL_TASK="8_0")
    (reason,) = (worker.reason for worker in place.workers() if worker.task == "8_0")
    assert reason == "every member of the population has a worker"
    (tmp_path / "go-1").touch()
    wait_until(lambda: place.counts().get(TrialState.COMPLETE) == 3)  # 1, 3 and 5
    assert place.counts()[TrialState.WAITING] == 2
    (tmp_path / "go-0").touch()
    for worker in (first, second):
        worker.communicate(timeout=60)
    assert place.counts() == {TrialState.COMPLETE: 6}
    assert {w.reason for w in place.workers() if w.task != "8_0"} == {"no trial waits"}


def test_a_member_whose_trial_failed_is_replaced_and_its_folder_kept(tmp_path: Path) -> None:
    wrong = "    if trial.number == 3: raise ValueError('no')\n    return 1"
    place = open_workplace(tmp_path, COUNTS.replace("    return 1", wrong), TWO)
    place.work(HPOCTL_TASK="7_0")
    records = place.records()
    assert records[3].state is TrialState.FAILED
    assert records[5].attrs["parent"] in (2, 4)
    assert list(place.run_dir.trial(3).glob("checkpoint-*"))
    assert place.store().retry([3]) == [8]
    place.folder.joinpath("mine.py").write_text(COUNTS)
    place.work(HPOCTL_TASK="7_1")
    repeated = place.records()[8]
    assert repeated.state is TrialState.COMPLETE
    assert repeated.attrs["parent"] == records[3].attrs["parent"]


def test_a_program_finds_its_parents_folder_in_its_environment(tmp_path: Path) -> None:
    shell = (
        'echo {lr} >"$HPOCTL_TRIAL_DIR/lr"; ls "$HPOCTL_PARENT_DIR/lr" >>found; '
        'echo "{{\\"value\\": 1, \\"heirs\\": $HPOCTL_HANDS_ON}}"'
    )
    runs = f"command: [sh, -c, {shell!r}]".replace("\\\\", "\\")
    place = open_workplace(tmp_path, "", TWO.replace("trials: 8", "trials: 4"), runs=runs)
    place.work(HPOCTL_TASK="7_0")
    assert [record.attrs["heirs"] for record in place.records()] == [1.0] * 4
    found = [Path(line).parts[-3:-1] for line in (tmp_path / "found").read_text().splitlines()]
    assert found == [("00002", "parent"), ("00003", "parent")]


def test_without_weights_to_inherit_every_trial_begins_with_nothing(tmp_path: Path) -> None:
    code = "def objective(trial):\n    assert trial.parent_dir is None and not trial.hands_on\n"
    text = TWO.replace("population: 2", "population: 2, inherit: nothing")
    place = open_workplace(tmp_path, f"{code}    return 1.0\n", text)
    place.work(HPOCTL_TASK="7_0")
    records = place.records()
    assert {record.state for record in records} == {TrialState.COMPLETE}
    assert all("parent" in record.attrs for record in records[2:])


# Folders alone


def make_parent(folder: Path) -> Path:
    parent = folder / "00001"
    (parent / "checkpoint-5").mkdir(parents=True)
    (parent / "checkpoint-5" / "weights").write_text("five")
    checkpoints.seal(parent / "checkpoint-5")
    for name in ("log.txt", "metrics.jsonl", "params.json", "state.pt"):
        (parent / name).write_text(name)
    (parent / "parent").mkdir()
    (folder / "00002").mkdir()
    return parent


def test_what_hpoctl_wrote_itself_is_not_inherited_and_files_take_no_room(tmp_path: Path) -> None:
    parent, folder = make_parent(tmp_path), tmp_path / "00002"
    heritage.inherit(parent, folder)
    place = heritage.place(folder)
    assert sorted(path.name for path in place.iterdir()) == ["checkpoint-5", "state.pt"]
    assert checkpoints.latest(place) == place / "checkpoint-5"
    assert (place / "state.pt").samefile(parent / "state.pt")


def test_it_outlives_its_parent_and_is_not_made_twice(tmp_path: Path) -> None:
    parent, folder = make_parent(tmp_path), tmp_path / "00002"
    heritage.inherit(parent, folder)
    heritage.tidy([], [parent])
    assert not list(parent.glob("checkpoint-*"))
    assert (heritage.place(folder) / "checkpoint-5" / "weights").read_text() == "five"
    heritage.inherit(parent, folder)
    assert (heritage.place(folder) / "checkpoint-5").is_dir()


def test_on_a_disk_without_links_it_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    parent, folder = make_parent(tmp_path), tmp_path / "00002"
    heritage.inherit(parent, folder)
    assert (heritage.place(folder) / "state.pt").read_text() == "state.pt"


def test_a_parent_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "00002").mkdir()
    with pytest.raises(FileNotFoundError, match="00001 is gone, from which this trial goes on"):
        heritage.inherit(tmp_path / "00001", tmp_path / "00002")
