"""The local backend: arrays run here as they would on Slurm, and outlive their terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpoctl.assets import read
from hpoctl.backends import local
from hpoctl.limits import Limits, Machine
from hpoctl.plan import JobArray
from hpoctl.record import TaskState
from hpoctl.rundir import RunDir, Submission
from hpoctl.words import BackendName

from .conftest import make_sweep

# submitit forgets its process, which is the point; our process would mind.
pytestmark = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")

# A task writes a line to `events` when it starts and when it ends, and ends when `go` is there.
TASK = """\
echo "start $HPOCTL_TASK ${CUDA_VISIBLE_DEVICES-unset}" >> events
trap 'echo "term $HPOCTL_TASK" >> events; exit 0' TERM
until [ -e go ]; do sleep 0.02; done
echo "end $HPOCTL_TASK" >> events
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that tasks run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "task.sh").write_text(TASK)
    return tmp_path


@pytest.fixture
def started(run_dir: RunDir) -> Iterator[list[str]]:
    """The arrays that a test started; ended with it."""
    ids: list[str] = []
    yield ids
    local.cancel(ids, run_dir)
    wait_until(lambda: all(not local._is_alive(array) for array in ids))


def wait_until(true: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def events(place: Path, kind: str) -> list[str]:
    """The tasks that an event happened to; the index, where `started` has the id of the array."""
    path = place / "events"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split()[1] for line in lines if line.startswith(f"{kind} ")]


def submit(
    run_dir: RunDir,
    started: list[str],
    place: Path,
    array: JobArray,
    after: tuple[str, ...] = (),
    gpus: int = 0,
) -> str:
    sweep = make_sweep(resources={"gpus": gpus})
    id_ = local.submit(place / "task.sh", array, sweep, run_dir, after=after)
    started.append(id_)
    backend = BackendName.LOCAL
    run_dir.append(Submission(array=array.name, id=id_, tasks=array.tasks, backend=backend, at=0.0))
    return id_


def test_the_script_is_the_one_of_slurm_without_header_and_walltime(run_dir: RunDir) -> None:
    script = local.script(JobArray(name="workers", tasks=1), make_sweep(), run_dir)
    assert script.startswith("#!/bin/bash\n")
    assert "#SBATCH" not in script
    assert "export HPOCTL_WALLTIME_S=''\n" in script
    assert script.endswith(read("slurm/worker.sh"))


def test_an_array_runs_all_its_tasks_each_under_its_own_name(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    (place / "go").touch()
    id_ = submit(run_dir, started, place, JobArray(name="a", tasks=3))
    wait_until(lambda: not local._is_alive(id_))
    assert sorted(events(place, "end")) == [f"{id_}_{index}" for index in range(3)]
    assert sorted(path.name for path in run_dir.logs.glob(f"{id_}_?.log")) == [
        f"{id_}_{index}.log" for index in range(3)
    ]
    assert {task.state for task in local.tasks([id_], run_dir)} == {TaskState.GONE}


def test_a_throttle_lets_only_so_many_tasks_run_at_once(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    (place / "task.sh").write_text(
        'ls running | wc -l >> most\nmkdir "running/$HPOCTL_TASK"\nsleep 0.2\n'
        'ls running | wc -l >> most\nrmdir "running/$HPOCTL_TASK"\n'
        'echo "end $HPOCTL_TASK" >> events\n'
    )
    (place / "running").mkdir()
    id_ = submit(run_dir, started, place, JobArray(name="a", tasks=4, at_once=2))
    wait_until(lambda: not local._is_alive(id_))
    assert len(events(place, "end")) == 4
    assert max(int(line) for line in (place / "most").read_text().split()) == 2


def test_this_machine_has_room_for_as_many_tasks_as_it_has_cores_and_gpus_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    limits, cores = local.limits(newer_than=0.0), len(os.sched_getaffinity(0))
    assert limits == Limits(machine=Machine(cpus=cores, gpus=3))


def test_an_array_waits_for_the_one_before_it(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    first = submit(run_dir, started, place, JobArray(name="a", tasks=2))
    second = submit(run_dir, started, place, JobArray(name="b", tasks=1), after=(first,))
    wait_until(lambda: len(events(place, "start")) == 2)
    (place / "go").touch()
    wait_until(lambda: not local._is_alive(second))
    lines = (place / "events").read_text().splitlines()
    order = [line.split()[0] + line.split()[1].removeprefix(second)[:2] for line in lines]
    assert order[-2:] == ["start_0", "end_0"]
    assert events(place, "end")[-1] == f"{second}_0"


def test_cancel_ends_running_tasks_and_starts_no_further_one(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    id_ = submit(run_dir, started, place, JobArray(name="a", tasks=4, at_once=2))
    wait_until(lambda: len(events(place, "start")) == 2)
    assert {task.state for task in local.tasks([id_], run_dir)} == {TaskState.RUNNING}
    local.cancel([id_], run_dir)
    wait_until(lambda: not local._is_alive(id_))
    assert sorted(events(place, "term")) == [f"{id_}_0", f"{id_}_1"]
    assert len(events(place, "start")) == 2


def test_cancel_of_an_array_that_waits_starts_nothing(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    first = submit(run_dir, started, place, JobArray(name="a", tasks=1))
    second = submit(run_dir, started, place, JobArray(name="b", tasks=1), after=(first,))
    wait_until(lambda: len(events(place, "start")) == 1)
    wait_until(lambda: b"submitit" in Path(f"/proc/{second}/cmdline").read_bytes())
    local.cancel([second], run_dir)
    wait_until(lambda: not local._is_alive(second))
    assert events(place, "start") == [f"{first}_0"]


def test_an_id_that_another_program_has_now_is_not_cancelled(run_dir: RunDir) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        local.cancel([str(other.pid)], run_dir)
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize(
    ("visible", "gpus", "seen"),
    [
        ("0,1", 1, ["0", "1", "0"]),
        ("0,1,2,3,4", 2, ["0,1", "2,3", "0,1"]),
        ("3", 1, ["3", "3", "3"]),
        ("3", 2, ["3", "3", "3"]),
        ("0,1", 0, ["0,1", "0,1", "0,1"]),
        ("", 1, ["", "", ""]),
        (None, 0, ["unset", "unset", "unset"]),
    ],
)
def test_visible_gpus_are_shared_out_over_the_tasks(
    run_dir: RunDir,
    started: list[str],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str | None,
    gpus: int,
    seen: list[str],
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    (place / "go").touch()
    id_ = submit(run_dir, started, place, JobArray(name="a", tasks=3), gpus=gpus)
    wait_until(lambda: not local._is_alive(id_))
    lines = [f"{line} ".split(" ") for line in (place / "events").read_text().splitlines()]
    devices = {line[1]: line[2] for line in lines if line[0] == "start"}
    assert [devices[f"{id_}_{index}"] for index in range(3)] == seen


SUBMITTER = """\
import sys
from pathlib import Path
from hpoctl.backends import local
from hpoctl.plan import JobArray
from hpoctl.rundir import RunDir
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep
array = JobArray(name="a", tasks=1)
sweep = Sweep(study="s", objective="m:f", budget={"trials": 1},
              search_space=SearchSpace({"a": Int(low=1, high=9)}))
run_dir = RunDir(Path(sys.argv[1]))
print(local.submit(Path("task.sh").absolute(), array, sweep, run_dir, after=()))
"""


def test_an_array_outlives_its_submitter_and_does_not_hold_its_pipe(
    run_dir: RunDir, started: list[str], place: Path
) -> None:
    submitter = subprocess.run(
        [sys.executable, "-c", SUBMITTER, str(run_dir.path)],
        capture_output=True,  # waits for the end of both pipes, whoever holds them
        text=True,
        timeout=20,
        check=True,
        start_new_session=True,
    )
    id_ = submitter.stdout.strip()
    started.append(id_)
    wait_until(lambda: events(place, "start"))
    for number in (signal.SIGHUP, signal.SIGINT):  # as a terminal that is closed sends them
        os.kill(int(id_), number)
    (place / "go").touch()
    wait_until(lambda: not local._is_alive(id_))
    assert events(place, "end") == [f"{id_}_0"]


def test_this_machine_has_room_for_any_number_and_knows_no_lost_array() -> None:
    assert local.room(()) is None
    assert local.find(Path("/r/a.sh")) is None
