"""`extend` and `retry`: the budget stays exact, whoever is killed in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from conftest import Hpoctl
from killing import HARNESS
from servers import wait_for

from hpoctl import config
from hpoctl.control.queue import choose
from hpoctl.errors import StudyError
from hpoctl.plan import queue
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import RunDir

SWEEP = """
study: more
objective: mine
search_space:
  x: {type: uniform, min: 0, max: 1}
sampler: random
mode: async
workers: 2
budget: {trials: 6}
backend: local
"""
# Trials 1, 3 and 5 fail as long as the file is there; a repeated one is known by its number.
OBJECTIVE = """
from pathlib import Path

def objective(trial):
    with (trial.dir / "seeds").open("a") as seeds:
        seeds.write(f"{trial.number} {trial.seed} {trial.params['x']}\\n")
    if Path("broken").exists() and trial.dir.name[-1] in "135":
        raise ValueError("broken")
    return trial.params["x"]
"""


class Desk:
    """A folder with a sweep, its trials run where `run` was called."""

    def __init__(self, hpoctl: Hpoctl) -> None:
        self.hpoctl = hpoctl
        self.run_dir = RunDir(hpoctl.folder / "runs" / "more")
        (hpoctl.folder / "sweep.yaml").write_text(SWEEP)
        (hpoctl.folder / "mine.py").write_text(OBJECTIVE)
        self.broken = hpoctl.folder / "broken"

    def run(self, *flags: str, broken: bool = False) -> None:
        """Runs the whole sweep, in which half of the trials fail if it is broken."""
        if broken:
            self.broken.touch()
        self.hpoctl("run", "sweep.yaml", *flags)
        self.broken.unlink(missing_ok=True)

    def say(self, *words: str, code: int = 0) -> str:
        """What a command wrote to stderr."""
        return self.hpoctl(*words, code=code).stderr

    def ask(self, *words: str) -> Any:
        return json.loads(self.hpoctl(*words, "--json").stdout)

    def killed(self, point: Sequence[str], *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", HARNESS, *point, *words],
            cwd=self.hpoctl.folder,
            env=self.hpoctl.environ,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr

    def counts(self) -> Mapping[str, int]:
        counts: Mapping[str, int] = self.ask("status", "more")["counts"]
        return {state: count for state, count in counts.items() if count}

    def await_counts(self, **counts: int) -> None:
        wait_for(lambda: self.counts() == counts, 60, f"{counts}, not {self.counts()}")

    def points(self) -> list[float]:
        return [trial["params"]["x"] for trial in self.ask("trials", "more")]


@pytest.fixture
def desk(hpoctl: Hpoctl) -> Desk:
    return Desk(hpoctl)


def points_of(trials: int) -> list[object]:
    """The points of the sweep, had it had this budget from the start."""
    return [point["x"] for point in queue(config.parse(SWEEP.replace("6", str(trials)), "s"))]


def test_an_extended_sweep_has_the_points_of_one_that_was_larger_from_the_start(
    desk: Desk,
) -> None:
    desk.run(broken=True)
    desk.say("retry", "more")
    assert desk.ask("extend", "more", "--trials", "+4")["queued"] == [9, 10, 11, 12]
    points = desk.points()
    assert points[:6] + points[9:] == points_of(10)
    assert points[6:9] == points[1:6:2]
    assert desk.ask("status", "more")["budget"]["trials"] == 10


def test_an_extended_study_is_worked_off_by_workers_that_are_attached(desk: Desk) -> None:
    desk.run()
    said = desk.say("extend", "more", "--trials", "+3")
    assert said.endswith("hpoctl workers add more -n 2\n")
    desk.say("workers", "add", "more", "-n", "2")
    desk.await_counts(complete=9)
    done = desk.hpoctl("extend", "more", "--trials", "10", "--workers", "4")
    assert "queued 1 trial; the budget of 'more' is 10\nattached attached-2: " in done.stdout
    assert "(1 task)" in done.stdout
    desk.await_counts(complete=10)


def test_the_whole_budget_given_twice_queues_nothing_more(desk: Desk) -> None:
    desk.run()
    assert desk.ask("extend", "more", "--trials", "8")["queued"] == [6, 7]
    assert desk.ask("extend", "more", "--trials", "8")["queued"] == []
    assert "nothing to do: the budget of 'more' is 8 trials already" in desk.say(
        "extend", "more", "--trials", "8"
    )
    assert "a budget does not shrink" in desk.say("extend", "more", "--trials", "7", code=2)
    assert desk.counts() == {"complete": 6, "waiting": 2}


@pytest.mark.parametrize(
    ("storage", "point"),
    [
        ("journal", ("hpoctl.rundir", "RunDir.note_extension", "before", "1")),
        ("journal", ("hpoctl.rundir", "RunDir.note_extension", "after", "1")),
        ("journal", ("optuna.storages", "JournalStorage.create_new_trial", "after", "2")),
        ("journal", ("hpoctl.rundir", "RunDir.append", "after", "1")),
        ("sqlite", ("hpoctl.study.relational", "enqueue", "before", "1")),
        ("sqlite", ("hpoctl.control.queue", "add_workers", "before", "1")),
        ("sqlite", ("hpoctl.rundir", "RunDir.note_extension", "before", "2")),
    ],
    ids=lambda given: given if isinstance(given, str) else "-".join(given[1:]),
)
def test_an_extend_that_was_killed_anywhere_is_finished_by_the_same_command(
    desk: Desk, storage: str, point: tuple[str, ...]
) -> None:
    desk.run("--set", f"storage={{{storage}: study.{storage}}}")
    words = ("extend", "more", "--trials", "+4", "--workers", "2")
    desk.killed(point, *words)
    desk.say(*words)
    desk.await_counts(complete=10)
    assert desk.points() == points_of(10)
    assert desk.ask("status", "more")["budget"]["trials"] == 10
    assert desk.ask("extend", "more", "--trials", "+1")["budget"]["trials"] == 11


def test_another_extend_after_one_that_was_killed_has_to_say_the_whole_budget(
    desk: Desk,
) -> None:
    desk.run()
    point = ("hpoctl.rundir", "RunDir.note_extension", "after", "1")
    desk.killed(point, "extend", "more", "--trials", "+4")
    said = desk.say("extend", "more", "--trials", "+9", code=4)
    assert "cut short on the way to 10 trials" in said
    desk.say("extend", "more", "--trials", "7")
    assert desk.counts() == {"complete": 6, "waiting": 1}
    desk.say("extend", "more", "--trials", "+1")
    assert desk.counts() == {"complete": 6, "waiting": 2}


@pytest.mark.parametrize(("budget", "whole"), [("+5", 16), ("11", 11)])
def test_two_extends_at_once_are_exact(desk: Desk, budget: str, whole: int) -> None:
    desk.run()
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "hpoctl", "extend", "more", "--trials", budget],
            cwd=desk.hpoctl.folder,
            env=desk.hpoctl.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [one.wait(timeout=60) for one in both] == [0, 0]
    assert desk.points() == points_of(whole)


@pytest.mark.parametrize(
    "sampler", ["grid", "{name: manual, points: [{x: 0.5}]}"], ids=["grid", "manual"]
)
def test_a_list_of_points_is_not_extended(desk: Desk, sampler: str) -> None:
    text = SWEEP.replace("random", sampler).replace("max: 1}", "max: 1, step: 0.5}")
    (desk.hpoctl.folder / "sweep.yaml").write_text(text.replace("budget: {trials: 6}\n", ""))
    desk.run()
    said = desk.say("extend", "more", "--trials", "+1", code=2)
    assert "queued: submit a sweep of another 'study' name" in said
    assert len(said.splitlines()) == 1


def test_a_batch_system_that_refuses_workers_has_the_trials_queued(desk: Desk) -> None:
    desk.run()
    plan = desk.run_dir.plan_file
    plan.write_text(plan.read_text().replace('"local"', '"slurm"'))
    desk.hpoctl.env["PATH"] = str(desk.hpoctl.folder)  # without a Slurm
    for words in (["extend", "more", "--trials", "+2"], ["retry", "more"]):
        said = desk.say(*words, "--workers", "1", code=3)
        assert "queued, no worker was attached: " in said
    assert desk.counts() == {"complete": 6, "waiting": 2}


def test_what_is_spent_besides_is_said(desk: Desk) -> None:
    desk.hpoctl("run", "sweep.yaml", "--set", "budget.time=1s", code=4)
    said = desk.say("extend", "more", "--trials", "+1")
    assert "budget.time (1s) is spent: workers will leave at once; extend it too" in said
    said = desk.say("extend", "more", "--time", "2s")
    assert "budget.time (2s) is spent" in said


def test_a_study_that_ended_by_its_time_goes_on_with_more_of_it(desk: Desk) -> None:
    desk.hpoctl("run", "sweep.yaml", "--set", "budget.time=1s", code=4)
    assert desk.ask("status", "more")["counts"]["waiting"] > 0
    assert "budget.time is spent" in desk.hpoctl("status", "more").stdout
    extended = desk.hpoctl("extend", "more", "--time", "+1h")
    assert "the budget of time of 'more' is 1 h " in extended.stdout
    assert "spent" not in extended.stderr
    rows = desk.hpoctl("status", "more").stdout.splitlines()
    assert not any(row.startswith("budget") for row in rows)
    (next_,) = [line for line in extended.stderr.splitlines() if line.startswith("next: ")]
    desk.say(*next_[next_.index("workers add") :].split())
    desk.await_counts(complete=6)
    assert desk.ask("extend", "more", "--time", "+1h")["budget"]["time_s"] > 7200


def test_a_list_of_points_gets_more_time(desk: Desk) -> None:
    text = SWEEP.replace("random", "grid").replace("max: 1}", "max: 1, step: 0.5}")
    (desk.hpoctl.folder / "sweep.yaml").write_text(text.replace("trials: 6", "time: 1s"))
    desk.hpoctl("run", "sweep.yaml", code=4)
    desk.say("extend", "more", "--time", "+10m", "--workers", "1")
    desk.await_counts(complete=3)


def test_what_was_raised_stays_raised_and_is_given_in_all_again_and_again(desk: Desk) -> None:
    desk.run("--set", "budget.time=1h", "--set", "budget.gpu_hours=4")
    first = desk.ask("extend", "more", "--time", "2h", "--gpu-hours", "+1.5", "--trials", "+1")
    assert first["budget"] == {"trials": 7, "gpu_hours": 5.5, "time_s": 7200}
    assert desk.ask("extend", "more", "--gpu-hours", "6")["budget"]["gpu_hours"] == 6
    again = desk.ask("extend", "more", "--gpu-hours", "6", "--time", "2h", "--trials", "7")
    assert again["budget"] == {"trials": 7, "gpu_hours": 6, "time_s": 7200}
    assert desk.ask("extend", "more", "--trials", "+1")["budget"] == {
        "trials": 8,
        "gpu_hours": 6,
        "time_s": 7200,
    }
    assert desk.ask("status", "more")["budget"] == {"trials": 8, "gpu_hours": 6}
    assert "a budget of 2h already" in desk.say("extend", "more", "--time", "1h", code=2)
    said = desk.say("extend", "more", "--gpu-hours", "5", code=2)
    assert "a budget of 6 GPU-hours already, and a budget does not shrink" in said


def test_more_time_that_was_killed_is_given_once(desk: Desk) -> None:
    desk.run("--set", "budget.time=1h", "--set", "storage={sqlite: study.sqlite}")
    words = ("extend", "more", "--time", "+1h", "--trials", "+1")
    desk.killed(("hpoctl.rundir", "RunDir.note_extension", "before", "2"), *words)
    assert desk.ask(*words)["budget"] == {"trials": 7, "gpu_hours": None, "time_s": 7200}
    desk.killed(("hpoctl.rundir", "RunDir.note_extension", "after", "1"), *words)
    said = desk.say("extend", "more", "--time", "+3h", code=4)
    assert "--trials 8 --time 3h" in said


def test_failed_trials_are_repeated_once_in_their_folders_with_their_seeds(desk: Desk) -> None:
    desk.run(broken=True)
    assert desk.counts() == {"complete": 3, "failed": 3}
    first = desk.ask("retry", "more", "3", "--workers", "1")
    assert first["queued"] == [{"number": 6, "repeats": 3}]
    assert [array["tasks"] for array in first["arrays"]] == [1]
    desk.await_counts(complete=4, failed=3)
    rest = desk.ask("retry", "more", "--state", "failed")
    assert rest["queued"] == [{"number": 7, "repeats": 1}, {"number": 8, "repeats": 5}]
    assert desk.ask("retry", "more")["queued"] == []
    desk.say("workers", "add", "more", "-n", "2")
    desk.await_counts(complete=6, failed=3)
    runs = (desk.run_dir.trial(3) / "seeds").read_text().splitlines()
    assert [run.split()[0] for run in runs] == ["3", "6"]
    assert len({run.split(maxsplit=1)[1] for run in runs}) == 1

    table = desk.hpoctl("trials", "more").stdout.splitlines()
    assert table[1].split()[:3] == ["trial", "repeats", "state"]
    assert table[3 + 6].split()[:3] == ["6", "3", "complete"]
    assert "3 of them beyond the budget of 6" in desk.hpoctl("status", "more").stdout
    assert "ValueError: broken" in desk.hpoctl("logs", "more", "6").stdout
    desk.say("report", "more")
    assert (desk.run_dir.results / "trial_6" / "log.txt").readlink().parent.name == "00003"


def test_a_trial_is_repeated_again_when_it_failed_again_but_not_for_ever(desk: Desk) -> None:
    desk.run(broken=True)
    desk.broken.touch()
    for times, number in enumerate((6, 7, 8), 1):
        asked = ("retry", "more", "1" if times == 1 else "1,6", "--workers", "1")
        assert desk.ask(*asked)["queued"] == [{"number": number, "repeats": 1}]
        desk.await_counts(complete=3, failed=3 + times)
    said = desk.say("retry", "more", "1")
    assert "trial 1 is left as it is: it failed 4 times: --max-retries 4 repeats it" in said
    assert "nothing to do" in said
    once_more = desk.ask("retry", "more", "--max-retries", "4")
    assert [trial["repeats"] for trial in once_more["queued"]] == [3, 5, 1]


def test_two_retries_at_once_repeat_each_trial_once(desk: Desk) -> None:
    desk.run(broken=True)
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "hpoctl", "retry", "more", "-q"],
            cwd=desk.hpoctl.folder,
            env=desk.hpoctl.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    assert sorted(one.communicate(timeout=60)[0] for one in both) == ["", "6\n7\n8\n"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["retry", "more", "2"], 4, "trial 2 is complete: only failed trials can be repeated"),
        (["retry", "more", "1,99"], 4, "there is no trial 99: 'hpoctl trials' lists them"),
        (["retry", "more", "1-"], 2, "'1-' names no trials, write 7 or 1-3,9"),
        (["retry", "more", ""], 2, "'' names no trials, write 7 or 1-3,9"),
        (["retry", "more", "5-3"], 2, "5-3 ends before it begins, write 3-5"),
        (["retry", "more", "--state", "complete"], 2, "'complete' is not 'failed'"),
        (["extend", "more"], 2, "say what to extend: --trials +20, --time +2h or --gpu-hours +10"),
        (["extend", "more", "--time", "2"], 2, "'2' is no time, write +2h for two hours more"),
        (["extend", "more", "--time", "+0s"], 2, "'+0s' is no time, write +2h for two hours more"),
        (["extend", "more", "--gpu-hours", "+x"], 2, "no number of GPU-hours, write +10 for 10"),
        (["extend", "more", "--gpu-hours", "0.0"], 2, "no number of GPU-hours, write +10 for 10"),
        (["extend", "more", "--time", "+2h"], 2, "has no budget.time, so nothing of it is ever"),
        (["extend", "more", "--gpu-hours", "+2"], 2, "has no budget.gpu_hours, so nothing of it"),
        (["extend", "more", "--trials", "many"], 2, "write +20 for 20 trials more, or 120"),
        (["extend", "more", "--trials", "-4"], 2, "write +20 for 20 trials more, or 120"),
        (["extend", "more", "--trials", "+0"], 2, "write +20 for 20 trials more, or 120"),
        (["extend", "more", "--trials", "2000000"], 2, "less than or equal to 1000000"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_mistake_is_answered_in_one_line_and_changes_nothing(
    finished: Desk, words: list[str], code: int, message: str
) -> None:
    said = finished.say(*words, code=code)
    assert message in said
    assert len(said.splitlines()) == 1
    assert finished.counts() == {"complete": 3, "failed": 3}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A study of which half of the trials failed; not to be changed."""
    desk = Desk(Hpoctl(tmp_path_factory.mktemp("finished")))
    desk.run(broken=True)
    return desk


def failed(number: int, of: int | None = None, **attrs: object) -> TrialRecord:
    known = {"attempt": 1, **({} if of is None else {"retry_of": of}), **attrs}
    return TrialRecord(number=number, state=TrialState.FAILED, attrs=known)


def test_the_last_of_a_line_is_repeated_whichever_of_it_is_named() -> None:
    records = [failed(0), failed(1), failed(2, of=0)]
    assert choose(records, [0], 3) == ([2], {})
    assert choose(records, [0, 2], 3) == ([2], {})
    assert choose(records, None, 3) == ([1, 2], {})


def test_a_trial_of_another_program_is_left() -> None:
    native = TrialRecord(number=0, state=TrialState.FAILED)
    assert choose([native, failed(1)], None, 3) == (
        [1],
        {0: "another program than hpoctl ran it"},
    )


def test_no_trial_is_repeated_where_one_that_was_named_cannot_be() -> None:
    with pytest.raises(StudyError):
        choose([failed(0)], [0, 1], 3)
