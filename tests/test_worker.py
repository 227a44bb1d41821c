"""The worker: works a queue off, and leaves at the right time with the reason written down."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from conftest import Hpoctl
from workplace import open_workplace, wait_until

from hpoctl.allocation import Allocation
from hpoctl.record import Stop, TrialState, WorkerRecord
from hpoctl.rundir import Submission
from hpoctl.study import store
from hpoctl.words import BackendName

FIVE = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 5}}\n"
QUICK = "def objective(trial): return trial.params['a']\n"
SLOW = """
import time
from pathlib import Path
def objective(trial):
    Path(f"started-{trial.number}").touch()
    while not Path("go").exists():
        time.sleep(0.02)
    return 1.0
"""


def test_a_worker_works_the_queue_off_and_writes_itself_down(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, QUICK, FIVE)
    printed = place.work(HPOCTL_TASK="7_3", HPOCTL_GPUS="2")
    assert [record.values for record in place.records()] == [(float(a),) for a in range(1, 6)]
    (worker,) = place.workers()
    assert (worker.task, worker.node, worker.gpus, worker.trials) == ("7_3", "here", 2, 5)
    assert worker.ready_at is not None and worker.ended_at is not None
    assert worker.started_at <= worker.ready_at <= worker.ended_at
    assert 0 < worker.training_s < worker.ended_at - worker.ready_at
    assert worker.reason == "no trial waits"
    assert "trial 4 complete 5 in " in printed
    assert {str(record.attrs["task"]) for record in place.records()} == {"7_3"}


def test_what_a_trial_started_ends_with_it_also_in_a_session_of_its_own(tmp_path: Path) -> None:
    code = """
import subprocess
from pathlib import Path
def objective(trial):
    inner = "sleep 1000 & echo $! >> pids; sleep 1000"
    shell = subprocess.Popen(["bash", "-c", inner], start_new_session=True)
    with Path("pids").open("a") as pids:
        pids.write(f"{shell.pid}\\n")
    while len(Path("pids").read_text().split()) < 2 * trial.params["a"]:
        pass
    return 1.0
"""
    place = open_workplace(tmp_path, code, FIVE)
    place.work(HPOCTL_TASK="7_0", HPOCTL_TRIALS_PER_TASK="2")
    assert place.counts() == {TrialState.COMPLETE: 2, TrialState.WAITING: 3}
    (pids,) = tmp_path.rglob("pids")
    assert [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()] == []


def test_a_worker_leaves_after_its_trials_per_task(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, QUICK, FIVE)
    place.work(HPOCTL_TASK="7_0", HPOCTL_TRIALS_PER_TASK="2")
    assert place.counts() == {TrialState.COMPLETE: 2, TrialState.WAITING: 3}
    assert place.workers()[0].reason == "its trials_per_task are done"


def test_a_worker_starts_no_trial_after_the_time_of_the_budget(tmp_path: Path) -> None:
    text = f"{FIVE}budget: {{time: 1h}}\n"
    place = open_workplace(tmp_path, QUICK, text, created_at=1_000_000.0)
    place.work()
    assert place.counts() == {TrialState.WAITING: 5}
    assert place.workers()[0].reason == "budget.time is spent"


def test_a_worker_leaves_when_the_gpu_hours_of_all_workers_are_spent(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, QUICK, f"{FIVE}budget: {{gpu_hours: 50}}\n")
    hours = {"7_0": 20.0, "7_1": 29.0}
    for task, spent in hours.items():
        place.store().sign_on(
            WorkerRecord(
                task=task, node="n1", pid=1, gpus=1, started_at=1.0, ended_at=1.0 + spent * 3600
            )
        )
    place.work(HPOCTL_TASK="7_2", HPOCTL_TRIALS_PER_TASK="1")
    assert place.counts() == {TrialState.COMPLETE: 1, TrialState.WAITING: 4}
    place.store().sign_on(
        WorkerRecord(task="7_3", node="n1", pid=1, gpus=2, started_at=1.0, ended_at=1801.0)
    )
    place.work(HPOCTL_TASK="7_4")
    assert place.counts() == {TrialState.COMPLETE: 1, TrialState.WAITING: 4}
    assert {w.task: w.reason for w in place.workers()}["7_4"] == "budget.gpu_hours is spent"


def test_a_worker_leaves_when_the_walltime_is_too_short_for_its_longest_trial(
    tmp_path: Path,
) -> None:
    slow = "import time\ndef objective(trial):\n    time.sleep(2)\n    return 1.0\n"
    place = open_workplace(tmp_path, slow, f"{FIVE}resources: {{time: 5s}}\n")
    place.work(HPOCTL_WALLTIME_S="3.5")
    (worker,) = place.workers()
    assert worker.trials == 1
    assert worker.reason is not None
    assert worker.reason.endswith("s of walltime left, a trial takes 2 s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_worker_that_is_told_to_leave_finishes_its_trial(
    tmp_path: Path, number: signal.Signals
) -> None:
    place = open_workplace(tmp_path, SLOW, FIVE)
    with place.start() as worker:
        wait_until((tmp_path / "started-0").exists)
        worker.send_signal(number)
        (tmp_path / "go").touch()
        worker.communicate(timeout=30)
    assert worker.returncode == 0
    assert place.counts() == {TrialState.COMPLETE: 1, TrialState.WAITING: 4}
    assert place.workers()[0].reason == f"told to by {number.name}"


def test_a_worker_that_is_drained_finishes_its_trial_and_a_later_one_goes_on(
    tmp_path: Path,
) -> None:
    place = open_workplace(tmp_path, SLOW, FIVE)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started-0").exists)
        place.store().drain(place.workers()[0].started_at + 0.001)
        (tmp_path / "go").touch()
        worker.communicate(timeout=30)
    assert place.counts() == {TrialState.COMPLETE: 1, TrialState.WAITING: 4}
    assert place.workers()[0].reason == "told to by 'hpoctl workers drain'"
    place.work(HPOCTL_TASK="7_1")
    assert place.counts() == {TrialState.COMPLETE: 5}


PREPARED = """
import os
from pathlib import Path
ready = None
def prepare(args):
    global ready
    with Path("prepared").open("a") as lines:
        lines.write(f"{os.getpid()} {args['path']}\\n")
    ready = args["path"]
def objective(trial):
    assert ready == "data"
    return os.getppid()
"""


def test_prepare_is_called_once_in_the_parent_of_all_trials(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, PREPARED, f"{FIVE}objective_args: {{path: data}}\n")
    place.work()
    (line,) = (tmp_path / "prepared").read_text().splitlines()
    pid, path = line.split()
    assert path == "data"
    assert {record.values for record in place.records()} == {(float(pid),)}


def test_a_worker_without_work_leaves_before_the_minutes_of_preparing(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, PREPARED, f"{FIVE}objective_args: {{path: data}}\n")
    place.work(HPOCTL_TASK="7_0")
    (tmp_path / "prepared").unlink()
    place.work(HPOCTL_TASK="7_1")
    assert not (tmp_path / "prepared").exists()
    assert [worker.reason for worker in place.workers()] == ["no trial waits"] * 2


def test_a_worker_that_cannot_prepare_takes_no_trial_and_says_why(tmp_path: Path) -> None:
    text = "def prepare(args): raise FileNotFoundError('no data')\ndef objective(trial): return 1\n"
    place = open_workplace(tmp_path, text, FIVE)
    printed = place.work(code=1)
    assert "no data" in printed
    assert place.counts() == {TrialState.WAITING: 5}
    assert place.workers()[0].reason == "could not prepare: no data"


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("x = 1\n", "objective: module 'mine' has no function 'objective'"),
        (
            "import no_such_library\n",
            "objective: no module 'no_such_library': mine needs it:"
            " pip install 'hpoctl[llm]' brings the usual ones",
        ),
    ],
)
def test_an_objective_that_cannot_be_loaded_is_a_configuration_error(
    tmp_path: Path, objective: str, message: str
) -> None:
    place = open_workplace(tmp_path, objective, FIVE)
    assert message in place.work(code=2)
    assert place.counts() == {TrialState.WAITING: 5}


SEEDED = """
import random
def objective(trial): return {"value": random.random(), "again": trial.seed}
"""


def test_a_trial_has_the_same_seed_and_parameters_on_any_worker(tmp_path: Path) -> None:
    text = "sampler: random\nseed: 5\nbudget: {trials: 4}\n"
    text += "search_space: {a: {type: uniform, min: 0, max: 1}}\n"
    one = open_workplace(tmp_path / "one", SEEDED, text)
    one.work(HPOCTL_TASK="7_0")
    two = open_workplace(tmp_path / "two", SEEDED, text)
    two.work(HPOCTL_TASK="8_0", HPOCTL_TRIALS_PER_TASK="1")
    two.work(HPOCTL_TASK="8_1")
    assert [(r.values, r.params, r.attrs["again"]) for r in one.records()] == [
        (r.values, r.params, r.attrs["again"]) for r in two.records()
    ]
    assert len({record.values for record in one.records()}) == 4


FALLING = """
from hpoctl.trial import Pruned
def objective(trial):
    for step in range(1, 6):
        trial.report(trial.params["a"], step)
        if trial.should_prune():
            raise Pruned
    return trial.params["a"]
"""


def test_the_pruner_is_asked_at_each_report_and_its_answer_reaches_the_trial(
    tmp_path: Path,
) -> None:
    pruner = "pruner: {name: median, n_startup_trials: 2, n_warmup_steps: 2}\n"
    place = open_workplace(tmp_path, FALLING, f"{FIVE}{pruner}")
    place.work()
    records = place.records()
    assert [record.state for record in records[:2]] == [TrialState.COMPLETE] * 2
    assert {record.state for record in records[2:]} == {TrialState.PRUNED}
    assert all(len(record.steps) == 2 for record in records[2:])


def test_two_workers_run_exactly_the_queue(tmp_path: Path) -> None:
    text = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 16}}\n"
    place = open_workplace(tmp_path, QUICK, text)
    workers = [place.start(HPOCTL_TASK=f"7_{index}") for index in range(2)]
    for worker in workers:
        printed, _ = worker.communicate(timeout=60)
        assert worker.returncode == 0, printed
    assert place.counts() == {TrialState.COMPLETE: 16}
    assert sum(worker.trials for worker in place.workers()) == 16


def test_a_study_that_was_deleted_is_named(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, QUICK, FIVE)
    store.delete(place.location, "my study", owner=str(place.run_dir.path))
    printed = place.work(code=4)
    assert "was it deleted?" in printed
    assert "Traceback" not in printed


def test_an_allocation_is_read_from_the_variables_of_the_script() -> None:
    whole = Allocation.read(
        {
            "HPOCTL_TASK": "7_1",
            "HPOCTL_NODE": "n1",
            "HPOCTL_CPUS": "16",
            "HPOCTL_GPUS": "4",
            "HPOCTL_TRIALS_PER_TASK": "3",
            "HPOCTL_WALLTIME_S": "7200",
        }
    )
    assert whole == Allocation(task="7_1", node="n1", cpus=16, gpus=4, trials=3, walltime_s=7200.0)
    empty = Allocation.read({"HPOCTL_TRIALS_PER_TASK": "", "HPOCTL_WALLTIME_S": ""})
    assert (empty.cpus, empty.gpus, empty.trials, empty.walltime_s) == (1, 0, None, None)


def test_failures_are_kept_by_class_and_shown_together(tmp_path: Path, hpoctl: Hpoctl) -> None:
    failing = """
class OutOfMemoryError(RuntimeError): pass
def objective(trial):
    if trial.params["a"] < 3:
        raise ValueError(f"no data in {trial.dir}")
    if trial.params["a"] == 3:
        raise OutOfMemoryError("CUDA out of memory")
    return float("nan") if trial.params["a"] == 4 else 1.0
"""
    place = open_workplace(tmp_path, failing, FIVE)
    printed = place.work(HPOCTL_TASK="7_3")
    lines = [line for line in printed.splitlines() if "trial" in line and "left" not in line]
    assert len(lines) == 5, "one line a trial"
    assert "trial 2 infeasible, cuda_oom: mine.OutOfMemoryError: CUDA out of memory" in printed
    shown = json.loads(hpoctl("failures", place.run_dir.path, "--json").stdout)
    assert [(f["cause"], f["count"], f["trials"], f["nodes"]) for f in shown["failures"]] == [
        ("error", 2, [0, 1], {"here": 2}),
        ("cuda_oom", 1, [2], {"here": 1}),
        ("nan", 1, [3], {"here": 1}),
    ]
    assert shown["failures"][0]["first"]["error"].startswith("Traceback")
    assert (shown["stopped"], shown["bad_nodes"]) == (None, {})
    text = hpoctl("failures", place.run_dir.path).stdout
    assert "error, 2 times: ValueError: no data in" in text
    assert "  first   trial 0:\n    Traceback" in text
    assert hpoctl("failures", place.run_dir.path, "-q").stdout == "0\n1\n2\n3\n"


DOOMED = """
from pathlib import Path
def objective(trial):
    if not Path("fixed").exists():
        raise FileNotFoundError(f"no data for trial {trial.number}")
    return 1.0
"""
TEN = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 10}}\n"


def test_a_sweep_whose_every_trial_dies_alike_stops_and_goes_on_after_a_fix(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    place = open_workplace(tmp_path, DOOMED, f"{TEN}stop_after: 3\n")
    place.work(HPOCTL_TASK="7_0")
    assert place.counts() == {TrialState.FAILED: 3, TrialState.WAITING: 7}
    why = "3 trials in a row failed alike: error: FileNotFoundError: no data for trial 2"
    (worker,) = place.workers()
    assert worker.reason == f"the study stopped itself: {why}"
    status = json.loads(hpoctl("status", place.run_dir.path, "--json").stdout)
    assert status["stopped"]["why"] == why
    assert f"stopped  itself: {why}" in hpoctl("status", place.run_dir.path).stdout
    assert f"stopped itself: {why}" in hpoctl("failures", place.run_dir.path).stdout
    (tmp_path / "fixed").touch()
    place.work(HPOCTL_TASK="7_1")
    assert place.counts() == {TrialState.FAILED: 3, TrialState.COMPLETE: 7}
    assert "stopped  itself" not in hpoctl("status", place.run_dir.path).stdout


def test_workers_that_were_submitted_before_a_stop_leave(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, QUICK, FIVE)
    now = time.time()
    place.run_dir.append(
        Submission(array="workers", id="7", tasks=2, backend=BackendName.LOCAL, at=now)
    )
    place.store().past.stop(Stop(at=now + 0.5, why="5 trials in a row failed alike: boom"))
    place.work(HPOCTL_TASK="7_1")
    assert place.counts() == {TrialState.WAITING: 5}
    reason = "the study stopped itself: 5 trials in a row failed alike: boom"
    assert [worker.reason for worker in place.workers()] == [reason]


ON_A_NODE = """
import os, time
def objective(trial):
    if os.environ["HPOCTL_NODE"] == "n2":
        raise RuntimeError(f"CUDA error: uncorrectable ECC in trial {trial.number}")
    return 1.0
"""


def test_a_node_on_which_trials_keep_dying_is_avoided_and_its_last_trial_waits_again(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    place = open_workplace(tmp_path, ON_A_NODE, TEN)
    place.work(HPOCTL_TASK="7_0", HPOCTL_NODE="n1", HPOCTL_TRIALS_PER_TASK="2")
    printed = place.work(HPOCTL_TASK="7_1", HPOCTL_NODE="n2")
    assert place.counts() == {
        TrialState.COMPLETE: 2,
        TrialState.FAILED: 2,
        TrialState.WAITING: 6,
    }
    assert "trial 4 given back, error: RuntimeError: CUDA error" in printed
    place.work(HPOCTL_TASK="7_2", HPOCTL_NODE="n2")
    why = "3 trials in a row failed there, and nowhere else, by error: RuntimeError: CUDA error:"
    reasons = {worker.task: str(worker.reason) for worker in place.workers()}
    assert reasons["7_1"].startswith(f"node n2 is avoided: {why}")
    assert reasons["7_2"] == reasons["7_1"]
    assert f"avoids   n2: {why}" in hpoctl("status", place.run_dir.path).stdout
    place.work(HPOCTL_TASK="7_3", HPOCTL_NODE="n1")
    assert place.counts() == {TrialState.COMPLETE: 8, TrialState.FAILED: 2}
