"""When a worker has to go: its allocation's end as the batch system has it, and signals."""

from __future__ import annotations

import functools
import math
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from workplace import Workplace, open_workplace, wait_until

from hpoctl.allocation import Clock, expected_s, is_fresh
from hpoctl.backends.slurm.end import parse_end
from hpoctl.ending import Ending
from hpoctl.record import TrialState
from hpoctl.words import Cause

ONE = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 1}}\n"
TWO = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 2}}\n"
SAVES = """
import json, time
from pathlib import Path
from hpoctl.trial import Checkpointed
def objective(trial):
    saved = trial.dir / "saved.json"
    step = json.loads(saved.read_text()) if trial.resumed else 0
    with Path("attempts").open("a") as lines:
        lines.write(f"{trial.attempt} {step}\\n")
    while step < 40:
        step += 1
        trial.report(1 / step, step)
        time.sleep(0.1)
        if trial.should_checkpoint():
            saved.write_text(str(step))
            raise Checkpointed
    return 1 / step
"""
HANGS = """
import time
from contextlib import suppress
from pathlib import Path
def objective(trial):
    Path(f"started-{trial.number}-{trial.attempt}").touch()
    time.sleep(600)
"""


def ending(ends_at: float | None, *later: float, warning_s: float = 8.0) -> Ending:
    """An ending whose batch system answers `later` moments, one a question."""
    answers = iter(later)
    clock = Clock(ends_at=ends_at, ask=lambda: next(answers, None))
    return Ending(clock=clock, warning_s=warning_s, grace_s=5.0)


def test_a_trial_is_asked_a_warning_before_the_end_and_ended_shortly_before_it() -> None:
    end = ending(100.0)
    assert not end.is_near(91.9)
    assert end.is_near(92.0)
    assert end.why_over(97.9) is None
    why = end.why_over(98.0)
    assert why is not None and why[0] is Cause.TIMEOUT
    assert end.next_s(80.0, asked=False) == 12.0
    assert end.next_s(92.0, asked=True) == 6.0


def test_an_allocation_that_was_given_more_time_goes_on() -> None:
    end = ending(100.0, 200.0)
    assert not end.is_near(95.0)
    assert end.next_s(95.0, asked=False) == 97.0
    assert end.is_near(193.0)


def test_slurms_warning_before_an_end_that_was_moved_up_is_heeded() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    now = time.time()
    end = ending(now + 60, now + 5)  # it was to last for a minute, and is to end in seconds
    try:
        end.listen()
        assert not end.is_near(now)
        os.kill(os.getpid(), signal.SIGUSR2)
        assert end.is_near(now)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert end.told is None


def test_without_an_end_only_signals_count() -> None:
    end = ending(None)
    assert not end.is_near(1e12)
    assert end.why_over(1e12) is None
    assert end.next_s(0.0, asked=False) == math.inf


def test_after_sigterm_a_trial_has_the_time_of_grace() -> None:
    end = ending(None)
    end.told, end.told_at = signal.SIGTERM, 50.0
    assert end.is_near(50.0)
    assert end.why_over(54.0) is None
    why = end.why_over(55.0)
    assert why is not None and why[0] is Cause.PREEMPTED
    assert end.next_s(51.0, asked=True) == 4.0


def test_the_end_is_read_as_squeue_prints_it() -> None:
    assert parse_end("N/A\n") is None
    assert parse_end("NONE") is None
    assert parse_end("") is None
    later, earlier = parse_end("2026-11-21T16:30:10\n"), parse_end("2026-11-21T16:30:00\n")
    assert later is not None and earlier is not None
    assert later - earlier == 10.0
    assert parse_end("1795286569\n") == 1795286569.0  # as `ask` has squeue write times


def test_a_trial_is_expected_to_take_what_most_took_and_not_the_one_that_hung() -> None:
    assert expected_s([]) == 0.0
    assert expected_s([3.0, 9.0, 4.0]) == 9.0
    assert expected_s([*[10.0 + i / 100 for i in range(99)], 3_600.0]) < 11.0


def test_an_allocation_is_fresh_while_most_of_it_is_left() -> None:
    assert is_fresh(1_000.0, 1_020.0, 80.0)
    assert not is_fresh(1_000.0, 1_030.0, 70.0)


def test_a_long_trial_crosses_allocations_from_where_it_saved_itself(tmp_path: Path) -> None:
    text = f"{ONE}checkpoints: true\nresources: {{time: 5s, warning: 1s}}\n"
    place = open_workplace(tmp_path, SAVES, text)
    for life in range(6):
        if place.counts() == {TrialState.COMPLETE: 1}:
            break
        place.work(HPOCTL_TASK=f"7_{life}", HPOCTL_WALLTIME_S="3")
    (record,) = place.records()
    assert record.state is TrialState.COMPLETE
    assert record.values == (1 / 40,)
    assert record.steps == {step: 1 / step for step in range(1, 41)}
    attempts = [line.split() for line in (tmp_path / "attempts").read_text().splitlines()]
    assert len(attempts) >= 2
    assert [int(attempt) for attempt, _ in attempts] == [*range(1, len(attempts) + 1)]
    steps = [int(step) for _, step in attempts]
    assert steps == sorted(steps) and steps[-1] > 0
    assert not record.attrs.get("lost")
    assert sum(worker.trials for worker in place.workers()) == 1
    assert place.store().past.ended()[-1].attempt == len(attempts)
    assert [a for a in place.store().past.ended() if a.cause is not None] == []


def test_a_trial_that_does_not_save_itself_is_ended_in_time_and_retried_once(
    tmp_path: Path,
) -> None:
    place = open_workplace(tmp_path, HANGS, f"{ONE}resources: {{time: 6s, warning: 1s}}\n")
    printed = place.work(HPOCTL_TASK="7_0", HPOCTL_WALLTIME_S="3")
    assert "trial 0 lost, timeout: not done when its allocation ended in " in printed
    assert place.counts() == {TrialState.WAITING: 1}
    (worker,) = place.workers()
    assert worker.ended_at is not None and worker.ended_at < worker.started_at + 3
    place.work(HPOCTL_TASK="7_1", HPOCTL_WALLTIME_S="3")
    (record,) = place.records()
    assert (record.state, record.attrs["cause"]) == (TrialState.FAILED, "timeout")


@pytest.mark.parametrize(
    ("on", "state"),
    [("requeue", TrialState.WAITING), ("infeasible", TrialState.PRUNED), ("fail", "failed")],
)
def test_the_sweep_says_what_becomes_of_a_trial_that_ran_out_of_time(
    tmp_path: Path, on: str, state: str
) -> None:
    text = f"{ONE}on: {{timeout: {on}}}\nresources: {{time: 6s, warning: 1s}}\n"
    place = open_workplace(tmp_path, HANGS, text)
    place.work(HPOCTL_WALLTIME_S="2")
    (record,) = place.records()
    assert record.state == state
    assert not record.attrs.get("lost")


def begin(tmp_path: Path, objective: str, text: str) -> tuple[Workplace, str]:
    """A worker whose first trial runs is sent SIGTERM; what it printed until it left."""
    place = open_workplace(tmp_path, objective, text)
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until(lambda: place.counts().get(TrialState.RUNNING))
        wait_until(lambda: [*place.run_dir.trials.glob("*/metrics.jsonl"), *tmp_path.glob("st*")])
        worker.send_signal(signal.SIGTERM)
        printed, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, printed
    return place, printed


def test_a_preempted_trial_that_saves_itself_waits_again_and_nothing_is_counted(
    tmp_path: Path,
) -> None:
    place, _ = begin(tmp_path, SAVES, TWO)
    assert place.counts() == {TrialState.WAITING: 2}
    (worker,) = place.workers()
    assert (worker.reason, worker.told, worker.trials) == ("told to by SIGTERM", "SIGTERM", 0)
    place.work(HPOCTL_TASK="7_1")
    assert place.counts() == {TrialState.COMPLETE: 2}
    assert "2 " in (tmp_path / "attempts").read_text()


def test_a_preempted_trial_that_does_not_is_ended_after_the_grace_and_waits_again(
    tmp_path: Path,
) -> None:
    place, printed = begin(tmp_path, HANGS, f"{TWO}resources: {{grace: 1s}}\n")
    assert "trial 0 given back, preempted: not done 1 s after SIGTERM" in printed
    assert place.counts() == {TrialState.WAITING: 2}
    assert [(a.number, a.cause) for a in place.store().past.ended()] == [(0, Cause.PREEMPTED)]


def test_a_worker_that_is_killed_after_sigterm_was_preempted(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, HANGS, f"{ONE}resources: {{grace: 60s}}\n")
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until(lambda: [*tmp_path.glob("started-*")])
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: place.workers()[0].told == "SIGTERM")
        worker.kill()
    place.store().return_lost(lambda gone: True)
    (record,) = place.records()
    assert record.state is TrialState.WAITING
    assert not record.attrs.get("lost")
    assert [a.cause for a in place.store().past.ended()] == [Cause.PREEMPTED]


def test_a_trial_that_gives_itself_back_unasked_has_failed(tmp_path: Path) -> None:
    text = "from hpoctl.trial import Checkpointed\ndef objective(trial): raise Checkpointed\n"
    place = open_workplace(tmp_path, text, ONE)
    place.work()
    assert "Checkpointed" in str(place.records()[0].attrs["error"])


PROGRAM = """
import os, pathlib, subprocess, sys, time
saved = pathlib.Path(os.environ["HPOCTL_TRIAL_DIR"]) / "saved"
if int(os.environ["HPOCTL_ATTEMPT"]) > 1:
    print('{"value": %s}' % saved.read_text())
    sys.exit()
while not pathlib.Path(os.environ["HPOCTL_CHECKPOINT"]).exists():
    time.sleep(0.05)
told = subprocess.run([sys.executable, "-m", "hpoctl", "tell", "value=1", "--step", "1", "--json"],
    capture_output=True, text=True)
saved.write_text(str(told.returncode))
print(told.stdout, told.stderr)
sys.exit(75)
"""


def test_a_program_is_told_to_save_itself_and_goes_on_later(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    text = f"{ONE}checkpoints: true\nresources: {{time: 30s, warning: 7s}}\n"
    runs = f"command: [{sys.executable}, program.py]"
    place = open_workplace(tmp_path, "", text, runs=runs)
    place.work(HPOCTL_TASK="7_0", HPOCTL_WALLTIME_S="22")
    assert place.counts() == {TrialState.WAITING: 1}
    place.work(HPOCTL_TASK="7_1", HPOCTL_WALLTIME_S="30")
    assert [record.values for record in place.records()] == [(6.0,)]
    assert [*place.run_dir.spool.iterdir()] == []


def family(pid: int) -> list[int]:
    """A process and all that it and its children have started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return [pid]
    return [pid, *(member for child in children for member in family(int(child)))]


def take_away(worker: int, *, but: str = "") -> None:
    """SIGTERM to all processes of a job, as Slurm sends it, the last ones first."""
    for pid in reversed(family(worker)):
        if name_of(pid) != but:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            wait_until(functools.partial(has_heard, pid))


def has_heard(pid: int) -> bool:
    """Whether a process that no signal can hold up has ended."""
    return not is_sleep(pid)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100",
        "trap 'exit 3' TERM; sleep 100 & wait",
        "trap 'exit 0' TERM; echo '{\"value\": 1, \"step\": 1}'; sleep 100 & wait",
        "setsid sleep 100; echo '{\"value\": 1}'",
        "sleep 100; echo '{\"value\": 1}'",
    ],
    ids=["dies", "fails", "leaves-with-a-report", "spared", "goes-on-without-its-program"],
)
def test_a_program_that_slurm_takes_away_has_neither_failed_nor_given_a_result(
    tmp_path: Path, script: str
) -> None:
    (tmp_path / "program.sh").write_text(f"touch started\n{script}\n")
    place = open_workplace(tmp_path, "", ONE, runs="command: [bash, program.sh]")
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started").exists)
        wait_until(lambda: any(is_sleep(pid) for pid in family(worker.pid)))
        spared = "bash" if script.startswith("setsid") else ""
        take_away(worker.pid, but=spared)
        printed, _ = worker.communicate(timeout=60)
    assert "trial 0 given back, preempted" in printed
    assert place.counts() == {TrialState.WAITING: 1}


def test_a_result_from_before_the_sigterm_is_taken(tmp_path: Path) -> None:
    script = "trap 'exit 0' TERM; echo '{\"value\": 1}'; sleep 1.5; touch started; sleep 100 & wait"
    (tmp_path / "program.sh").write_text(script)
    place = open_workplace(tmp_path, "", ONE, runs="command: [bash, program.sh]")
    with place.start(HPOCTL_TASK="7_0") as worker:
        wait_until((tmp_path / "started").exists)
        wait_until(lambda: any(is_sleep(pid) for pid in family(worker.pid)))
        take_away(worker.pid)
        printed, _ = worker.communicate(timeout=60)
    assert "trial 0 complete 1" in printed


def test_a_script_that_ends_its_own_group_has_given_its_result(tmp_path: Path) -> None:
    (tmp_path / "program.sh").write_text("trap 'kill 0' EXIT; trap '' TERM; echo '{\"value\": 1}'")
    place = open_workplace(tmp_path, "", ONE, runs="command: [bash, program.sh]")
    assert "trial 0 complete 1" in place.work(HPOCTL_TASK="7_0")


def name_of(pid: int) -> str:
    """A process's name, '' for one that has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def is_sleep(pid: int) -> bool:
    """Whether the program of the trial has come to its long part."""
    return name_of(pid) == "sleep"
