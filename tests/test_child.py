"""The child: whatever an objective does, its trial ends as what it was, and the next one starts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from workplace import Workplace, is_alive, open_workplace, wait_until

from hpoctl.record import TrialRecord, TrialState

OBJECTIVE = """
import json, os, random, signal, subprocess, sys, time
import numpy
import optuna
from hpoctl.trial import Pruned, Trial


def objective(trial: Trial):
    return globals()[trial.params["case"]](trial)


def scalar(trial): return 1.5
def integer(trial): return 2
def sequence(trial): return [2.5]
def numpy_number(trial): return numpy.float32(3.5)
def mapping(trial): return {"value": 4.5, "accuracy": 0.5}
def infinite(trial): return float("inf")

def nan(trial): return float("nan")
def none(trial): return None
def word(trial): return "1.5"
def two(trial): return [1.0, 2.0]
def other_name(trial): return {"loss": 1.0}
def raises(trial): raise ValueError("boom: ä")
def leaves(trial): sys.exit(0)
def leaves_with_words(trial): sys.exit("no data")
def interrupts(trial): raise KeyboardInterrupt

def killed(trial): os.kill(os.getpid(), signal.SIGKILL)
def segfault(trial): os.kill(os.getpid(), signal.SIGSEGV)
def vanishes(trial): os._exit(7)

def pruned(trial): raise Pruned
def pruned_by_optuna(trial): raise optuna.TrialPruned("at step 3")

def says(trial):
    print("from python")
    subprocess.run(["sh", "-c", "echo from a program; echo its error >&2"], check=True)
    return 1.0

def reports(trial):
    for step in (1, 2, 3):
        trial.report(1 / step, step, lr=step / 10)
    return 0.25

def reports_numpy(trial):
    trial.report(numpy.float32(0.5), numpy.int64(1))
    return 0.25

def draws(trial): return {"value": random.random(), "numpy": float(numpy.random.random())}
def draws_too(trial): return draws(trial)

def knows(trial):
    assert trial.number == 21, trial.number
    assert trial.args == {"path": "data"}, trial.args
    assert trial.cpus == 3
    assert trial.dir.is_dir()
    return trial.seed

def wanders(trial):
    os.chdir("/")
    os.environ["WANDERED"] = "1"
    sys.modules["wandered"] = sys
    return os.getppid()

def stays(trial):
    assert "WANDERED" not in os.environ and "wandered" not in sys.modules
    assert os.getcwd() != "/"
    return os.getppid()

def leaves_a_program(trial):
    program = subprocess.Popen(["sleep", "600"])
    return {"value": 1.0, "pid": program.pid}

def waits_for_signals(trial):
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        os.kill(os.getpid(), number)
    return 1.0

def last_one_is_still_run(trial): return 1.0
"""
CASES = [
    line.removeprefix("def ").partition("(")[0]
    for line in OBJECTIVE.splitlines()
    if line.startswith("def ") and "objective" not in line
]
FAILED = {
    "nan": "the objective returned NaN",
    "word": "ValueError: the objective returned '1.5', not one number for each metric",
    "two": "ValueError: the objective returned [1.0, 2.0], not one number for each metric",
    "other_name": "ValueError: the objective returned loss, without value",
    "raises": "ValueError: boom: ä",
    "leaves": "SystemExit: 0",
    "leaves_with_words": "SystemExit: no data",
    "interrupts": "KeyboardInterrupt",
    "killed": "the trial's process was ended by SIGKILL",
    "segfault": "the trial's process was ended by SIGSEGV",
    "vanishes": "the trial's process left with exit code 7 and no result",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """One worker has run every case once."""
    made = open_workplace(
        tmp_path_factory.mktemp("child"),
        OBJECTIVE.replace("trial.number == 21", f"trial.number == {CASES.index('knows')}"),
        "sampler: grid\nobjective_args: {path: data}\n"
        f"search_space: {{case: {{type: categorical, values: [{', '.join(CASES)}]}}}}\n",
    )
    made.work(HPOCTL_CPUS="3", HPOCTL_TASK="7_0")
    return made


@pytest.fixture(scope="module")
def ended(place: Workplace) -> Mapping[str, TrialRecord]:
    return {str(record.params["case"]): record for record in place.records()}


def test_one_worker_runs_all_of_them(ended: Mapping[str, TrialRecord], place: Workplace) -> None:
    assert list(ended) == CASES
    assert not {TrialState.WAITING, TrialState.RUNNING} & {r.state for r in ended.values()}
    (worker,) = place.workers()
    assert (worker.trials, worker.reason) == (len(CASES), "no trial waits")


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("scalar", 1.5),
        ("integer", 2.0),
        ("sequence", 2.5),
        ("numpy_number", 3.5),
        ("mapping", 4.5),
        ("infinite", float("inf")),
        ("last_one_is_still_run", 1.0),
    ],
)
def test_a_number_however_it_is_given_is_the_value(
    ended: Mapping[str, TrialRecord], case: str, value: float
) -> None:
    assert (ended[case].state, ended[case].values) == (TrialState.COMPLETE, (value,))


def test_further_names_of_a_mapping_are_kept_with_the_trial(
    ended: Mapping[str, TrialRecord],
) -> None:
    assert ended["mapping"].attrs["accuracy"] == 0.5


@pytest.mark.parametrize("case", FAILED)
def test_what_is_no_value_is_a_failed_trial_that_says_why(
    ended: Mapping[str, TrialRecord], case: str
) -> None:
    error = str(ended[case].attrs["error"])
    assert ended[case].state is TrialState.FAILED
    last = error.strip().splitlines()[-1]
    # A hint, where the cgroup's counter of kills for want of memory cannot be read.
    assert last.removesuffix(" (out of memory?)") == FAILED[case]


def test_an_objective_that_forgets_to_return_is_a_failed_trial(
    ended: Mapping[str, TrialRecord],
) -> None:
    assert ended["none"].state is TrialState.FAILED
    assert "None" in str(ended["none"].attrs["error"])


def test_a_traceback_names_the_users_line_and_stands_in_the_log(
    ended: Mapping[str, TrialRecord], place: Workplace
) -> None:
    error = str(ended["raises"].attrs["error"])
    assert 'def raises(trial): raise ValueError("boom: ä")' in error
    assert "mine.py" in error
    log = place.run_dir.trial(ended["raises"].number) / "log.txt"
    assert "ValueError: boom: ä" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", ["pruned", "pruned_by_optuna"])
def test_a_trial_may_end_itself_as_pruned(ended: Mapping[str, TrialRecord], case: str) -> None:
    assert ended[case].state is TrialState.PRUNED
    assert "error" not in ended[case].attrs


def test_all_output_is_in_the_log_of_the_trial(
    ended: Mapping[str, TrialRecord], place: Workplace
) -> None:
    log = place.run_dir.trial(ended["says"].number) / "log.txt"
    assert sorted(log.read_text().splitlines()) == ["from a program", "from python", "its error"]


def test_reports_reach_the_study_and_the_metrics_file(
    ended: Mapping[str, TrialRecord], place: Workplace
) -> None:
    assert ended["reports"].steps == {1: 1.0, 2: 0.5, 3: 1 / 3}
    metrics = place.run_dir.trial(ended["reports"].number) / "metrics.jsonl"
    assert [json.loads(line) for line in metrics.read_text().splitlines()] == [
        {"step": 1, "value": 1.0, "lr": 0.1},
        {"step": 2, "value": 0.5, "lr": 0.2},
        {"step": 3, "value": 1 / 3, "lr": 0.3},
    ]
    assert ended["reports_numpy"].steps == {1: 0.5}


def test_random_numbers_differ_between_trials(ended: Mapping[str, TrialRecord]) -> None:
    one, other = ended["draws"], ended["draws_too"]
    assert one.values != other.values
    assert one.attrs["numpy"] != other.attrs["numpy"]


def test_a_trial_knows_its_number_arguments_cpus_and_the_seed_that_is_kept_with_it(
    ended: Mapping[str, TrialRecord],
) -> None:
    assert ended["knows"].state is TrialState.COMPLETE, ended["knows"].attrs
    assert ended["knows"].values == (ended["knows"].attrs["seed"],)


def test_what_a_trial_changes_in_its_process_ends_with_it(
    ended: Mapping[str, TrialRecord],
) -> None:
    assert ended["stays"].state is TrialState.COMPLETE, ended["stays"].attrs
    assert ended["stays"].values == ended["wanders"].values  # the same warm parent


def test_a_program_that_a_trial_leaves_behind_is_ended(
    ended: Mapping[str, TrialRecord],
) -> None:
    pid = ended["leaves_a_program"].attrs["pid"]
    assert isinstance(pid, float)
    wait_until(lambda: not is_alive(int(pid)), 5)


def test_signals_to_the_allocation_do_not_end_the_running_trial(
    ended: Mapping[str, TrialRecord],
) -> None:
    assert ended["waits_for_signals"].state is TrialState.COMPLETE


SEVERAL = """
def objective(trial):
    case = trial.params["case"]
    trial.report(1.0, 1)
    assert not trial.should_prune()
    return {"sequence": [1.0, 2.0], "mapping": {"b": 2.0, "a": 1.0}, "one": 1.0,
            "short": {"a": 1.0}}[case]
"""


def test_several_metrics_come_in_order_or_by_name(tmp_path: Path) -> None:
    place = open_workplace(
        tmp_path,
        SEVERAL,
        "metrics: [{name: a}, {name: b, goal: maximize}]\nsampler: grid\n"
        "search_space: {case: {type: categorical, values: [sequence, mapping, one, short]}}\n",
    )
    place.work()
    records = {str(record.params["case"]): record for record in place.records()}
    assert records["sequence"].values == records["mapping"].values == (1.0, 2.0)
    assert records["sequence"].steps == {}, "Optuna's samplers know no steps of several metrics"
    noted = place.run_dir.trial(records["sequence"].number) / "metrics.jsonl"
    assert noted.read_text() == '{"step": 1, "value": 1.0}\n'
    assert "not one number for each metric" in str(records["one"].attrs["error"])
    assert "the objective returned a, without b" in str(records["short"].attrs["error"])


SECRET = """
import os, subprocess
def objective(trial):
    assert "HPOCTL_STORAGE" not in os.environ
    seen = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout
    assert "HPOCTL_STORAGE" not in seen and "HPOCTL_TASK" in seen
    return 1.0
"""


def test_the_variable_of_the_storage_is_not_in_the_childs_environment(tmp_path: Path) -> None:
    place = open_workplace(
        tmp_path,
        SECRET,
        "storage: {url_env: HPOCTL_STORAGE}\nsampler: grid\n"
        "search_space: {a: {type: int, min: 1, max: 1}}\n",
        environ={"HPOCTL_STORAGE": f"sqlite:///{tmp_path}/study.db"},
    )
    place.work(HPOCTL_TASK="7_0")
    (record,) = place.records()
    assert record.state is TrialState.COMPLETE, record.attrs


ORPHAN = """
import os, time
from pathlib import Path
def objective(trial):
    Path("pid.part").write_text(str(os.getpid()))
    Path("pid.part").rename("pid")
    time.sleep(600)
"""


def test_a_child_dies_with_its_worker(tmp_path: Path) -> None:
    place = open_workplace(
        tmp_path, ORPHAN, "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 1}}\n"
    )
    with place.start() as worker:
        wait_until((tmp_path / "pid").exists)
        child = int((tmp_path / "pid").read_text())
        assert is_alive(child) and child != worker.pid
        os.kill(worker.pid, 9)
        wait_until(lambda: not is_alive(child), 5)
    assert place.counts() == {TrialState.RUNNING: 1}
    assert time.time() - place.workers()[0].seen_at < 60
