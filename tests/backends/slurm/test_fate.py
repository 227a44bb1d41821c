"""Whether a worker is gone, by what Slurm says: a task id is not a life."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from hpoctl.backends import slurm
from hpoctl.backends.slurm import accounting, fate
from hpoctl.record import Charge, Fate, TaskRecord, TaskState, WorkerId, WorkerRecord
from hpoctl.rundir import RunDir
from hpoctl.words import Cause

from ..conftest import FakeProgram, squeue_line


def worker(task: str = "7_0", *, restarts: int = 0, started_at: float = 1000.0) -> WorkerRecord:
    return WorkerRecord(
        task=task, node="n1", pid=1, gpus=1, started_at=started_at, restarts=restarts
    )


def by_state(state: TaskState, *, restarts: int = 0, known: int = 0) -> Fate:
    task = TaskRecord(task="7_0", state=state, restarts=restarts)
    return fate.by_queue([worker(restarts=known)], [task])[WorkerId("7_0", 1)]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (TaskState.RUNNING, Fate.RUNNING),
        (TaskState.SUSPENDED, Fate.KEPT),
        (TaskState.STOPPED, Fate.KEPT),
        (TaskState.COMPLETING, Fate.UNKNOWN),
        (TaskState.REQUEUED, Fate.UNKNOWN),
        (TaskState.UNKNOWN, Fate.UNKNOWN),
        (TaskState.PENDING, Fate.GONE),
        (TaskState.COMPLETED, Fate.GONE),
        (TaskState.FAILED, Fate.GONE),
        (TaskState.CANCELLED, Fate.GONE),
        (TaskState.TIMEOUT, Fate.GONE),
        (TaskState.NODE_FAIL, Fate.GONE),
        (TaskState.BOOT_FAIL, Fate.GONE),
        (TaskState.DEADLINE, Fate.GONE),
        (TaskState.OUT_OF_MEMORY, Fate.GONE),
        (TaskState.PREEMPTED, Fate.GONE),
    ],
)
def test_a_state_says_whether_a_worker_can_still_be_there(state: TaskState, expected: Fate) -> None:
    assert by_state(state) is expected


def test_a_task_that_runs_again_says_nothing_good_of_its_former_life() -> None:
    assert by_state(TaskState.RUNNING, restarts=1) is Fate.GONE
    assert by_state(TaskState.SUSPENDED, restarts=2, known=1) is Fate.GONE
    assert by_state(TaskState.RUNNING, restarts=1, known=1) is Fate.RUNNING


def test_a_worker_whose_task_is_queued_again_may_finish_its_trial_within_killwait() -> None:
    assert by_state(TaskState.COMPLETING, restarts=1) is Fate.UNKNOWN
    assert by_state(TaskState.PENDING, restarts=1) is Fate.GONE


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (TaskState.NODE_FAIL, Cause.NODE_FAIL),
        (TaskState.OUT_OF_MEMORY, Cause.HOST_OOM),
        (TaskState.TIMEOUT, Cause.TIMEOUT),
        (TaskState.PREEMPTED, Cause.PREEMPTED),
        (TaskState.REQUEUED, Cause.REQUEUED),
        (TaskState.CANCELLED, Cause.CANCELLED),
    ],
)
def test_why_a_task_ended_is_known_by_squeue_and_by_accounting(
    state: TaskState, cause: Cause
) -> None:
    task = TaskRecord(task="7_0", state=state)
    assert fate.causes([worker()], [task], []) == {"7_0": cause}
    charge = Charge(
        task="7_0", state=state, started_at=999.0, ended_at=1500.0, elapsed_s=501.0, gpus=1
    )
    runs_again = TaskRecord(task="7_0", state=TaskState.RUNNING, restarts=1)
    assert fate.causes([worker()], [runs_again], [charge]) == {"7_0": cause}
    assert fate.causes([worker()], [], [charge]) == {"7_0": cause}


def test_a_task_that_was_queued_again_was_so_for_a_reason_that_only_accounting_knows() -> None:
    again = TaskRecord(task="7_0", state=TaskState.PENDING, restarts=1)
    assert fate.causes([worker()], [again], []) == {"7_0": Cause.REQUEUED}


def test_a_task_that_runs_or_failed_says_nothing_of_why_its_worker_is_gone() -> None:
    for state in (TaskState.RUNNING, TaskState.FAILED, TaskState.COMPLETED):
        assert fate.causes([worker()], [TaskRecord(task="7_0", state=state)], []) == {}
    assert fate.causes([worker()], [], []) == {}


def test_a_task_that_squeue_does_not_list_is_forgotten_and_not_gone() -> None:
    assert fate.by_queue([worker()], []) == {WorkerId("7_0", 1): Fate.FORGOTTEN}


# sacct -nPXD -o JobID,Submit,Start,End,State,ElapsedRaw,AllocTRES,ReqTRES, of 22.05, shortened
SACCT = """\
7_0|1000|1000|1020|FAILED|20|cpu=1,gres/gpu=2,node=1|cpu=1,gres/gpu=2,node=1
7_1|1000|1000|1004|REQUEUED|4|cpu=1,gres/gpu=2,node=1|cpu=1,gres/gpu=2,node=1
7_2|1000|1004|Unknown|RUNNING|17|cpu=1,gres/gpu=2,node=1|cpu=1,gres/gpu=2,node=1
7_1|1004|Unknown|Unknown|PENDING|0||cpu=1,gres/gpu=2,node=1
7_[3-9%2]|1000|Unknown|Unknown|PENDING|0||cpu=1,gres/gpu=2,node=1
7_10|1000|2000|2005|CANCELLED by 1000|5|cpu=1,gres/gpu=2,node=1|cpu=1,gres/gpu=2,node=1
"""


def test_a_job_that_was_cancelled_before_it_began_has_cost_nothing() -> None:
    # as later releases write it, in times without SLURM_TIME_FORMAT too
    text = (
        "8_0|2026-09-05T18:23:23|None|2026-09-06T12:59:09|CANCELLED by 30154|0||gres/gpu=1\n"
        "8_1|2026-09-05T18:23:23|2026-09-05T18:23:24|2026-09-05T18:23:34|OUT_OF_MEMORY|10|gres/gpu=1|\n"
    )
    ((_, charge),) = accounting.parse(text)
    assert (charge.task, charge.elapsed_s, charge.gpus) == ("8_1", 10.0, 1)
    assert charge.ended_at == charge.started_at + 10


def test_the_gpus_that_a_restarted_controller_forgot_are_those_that_were_asked_for() -> None:
    lines = {
        "12_0|1|1000|1001|CANCELLED|1|billing=2,cpu=8|billing=3,cpu=8,gres/gpu=2": 2,
        "12_0|1|1000|1001|CANCELLED|1|billing=2,cpu=8,gres/gpu=4|billing=3,cpu=8,gres/gpu=2": 4,
        "12_0|1|1000|1001|CANCELLED|1|billing=2,cpu=8|billing=3,cpu=8": None,
    }
    assert [accounting.parse(line)[0][1].gpus for line in lines] == [*lines.values()]


def fate_by_accounting(who: WorkerRecord) -> Fate:
    charges = [charge for _, charge in accounting.parse(SACCT)]
    return fate.by_accounting([who], charges)[who.id]


def test_accounting_knows_the_end_of_what_squeue_has_forgotten() -> None:
    assert fate_by_accounting(worker("7_0", started_at=1002.0)) is Fate.GONE
    assert fate_by_accounting(worker("7_1", started_at=1002.0)) is Fate.GONE
    assert fate_by_accounting(worker("7_10", started_at=2001.0)) is Fate.GONE


def test_an_accounting_that_is_late_or_purged_has_nothing_to_say() -> None:
    assert fate_by_accounting(worker("7_2", started_at=1006.0)) is Fate.FORGOTTEN
    assert fate_by_accounting(worker("7_4", started_at=1006.0)) is Fate.FORGOTTEN
    assert fate_by_accounting(worker("7_10", started_at=1500.0)) is Fate.FORGOTTEN


@pytest.mark.parametrize(
    "sacct",
    [
        "echo 'Slurm accounting storage is disabled' >&2; exit 1",
        "echo 'sacct: error: Problem talking to the database: Connection refused' >&2; exit 1",
        "sleep 9",
        "true",
    ],
)
def test_without_an_answer_of_accounting_the_lease_decides(
    fake_program: FakeProgram, run_dir: RunDir, sacct: str
) -> None:
    fake_program("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake_program("sacct", sacct)
    begun = time.monotonic()
    _, fates = slurm.fates([worker()], run_dir, newer_than=0.0, patience_s=1.0)
    assert fates == {WorkerId("7_0", 1): Fate.FORGOTTEN}
    assert time.monotonic() - begun < 4


def test_a_slurm_that_does_not_answer_kills_nobody(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    fake_program("squeue", "echo 'squeue: error: Socket timed out on send/recv' >&2; exit 1")
    _, fates = slurm.fates([worker()], run_dir, newer_than=0.0, patience_s=1.0)
    assert fates == {WorkerId("7_0", 1): Fate.UNKNOWN}


def test_where_there_is_no_squeue_the_lease_decides(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    _, fates = slurm.fates([worker()], run_dir, newer_than=0.0, patience_s=1.0)
    assert fates == {WorkerId("7_0", 1): Fate.FORGOTTEN}


def test_all_workers_are_asked_about_in_one_question(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    line = squeue_line(job="7", index="0", state="RUNNING")
    calls = run_dir.path / "calls"
    fake_program("squeue", f"echo x >> '{calls}'; echo '{line}'")
    fake_program("sacct", "true")
    crowd = [worker("7_0"), *(worker(f"8_{index}") for index in range(99))]
    _, fates = slurm.fates(crowd, run_dir, newer_than=0.0, patience_s=5.0)
    assert (fates[crowd[0].id], fates[crowd[1].id]) == (Fate.RUNNING, Fate.FORGOTTEN)
    assert calls.read_text() == "x\n"


RUNS = "7_0|1000|1000|Unknown|RUNNING|9|gres/gpu=1|gres/gpu=1"
OVER = "7_0|1000|1000|1009|{}|9|gres/gpu=1|gres/gpu=1"


def told(name: str = "7_0") -> WorkerRecord:
    return replace(worker(name), told="SIGTERM", told_at=time.time())


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("CANCELLED by 1000", Cause.CANCELLED),
        ("REQUEUED", Cause.REQUEUED),
        ("PREEMPTED", Cause.PREEMPTED),
        ("NODE_FAIL", Cause.NODE_FAIL),
        ("TIMEOUT", Cause.TIMEOUT),
        ("FAILED", None),
    ],
)
def test_why_a_worker_was_told_to_go_is_asked_of_accounting(
    fake_program: FakeProgram, run_dir: RunDir, state: str, cause: Cause | None
) -> None:
    fake_program("sacct", f"echo '{OVER.format(state)}'")
    assert slurm.why_taken(told(), run_dir) is cause


def test_an_accounting_that_has_not_heard_of_it_yet_is_asked_again(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    once, over = run_dir.path / "once", OVER.format("CANCELLED")
    fake_program("sacct", f"[ -e '{once}' ] && echo '{over}' || echo '{RUNS}'; touch '{once}'")
    assert slurm.why_taken(told(), run_dir) is Cause.CANCELLED


def test_what_was_said_before_the_signal_does_not_count(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    fake_program("sacct", f"echo '{OVER.format('TIMEOUT')}'")
    assert slurm.why_taken(told(), run_dir) is Cause.TIMEOUT
    fake_program("sacct", f"echo '{OVER.format('CANCELLED')}'")
    assert slurm.why_taken(told(), run_dir) is Cause.CANCELLED


@pytest.mark.parametrize(
    "sacct",
    ["echo 'Slurm accounting storage is disabled' >&2; exit 1", "sleep 9", f"echo '{RUNS}'"],
)
def test_a_worker_that_has_to_go_does_not_wait_long_for_why(
    fake_program: FakeProgram, run_dir: RunDir, sacct: str
) -> None:
    fake_program("sacct", sacct)
    begun = time.monotonic()
    assert slurm.why_taken(told(), run_dir) is None
    assert time.monotonic() - begun < 9  # KillWait, without what `grace` takes of it


def test_workers_that_are_told_to_go_at_once_ask_once(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    calls = run_dir.path / "calls"
    lines = "\n".join(OVER.format("CANCELLED").replace("7_0", f"7_{i}") for i in range(99))
    fake_program("sacct", f"echo x >> '{calls}'; sleep 0.2; echo '{lines}'")
    crowd = [told(f"7_{index}") for index in range(99)]
    with ThreadPoolExecutor(len(crowd)) as pool:
        found = [*pool.map(lambda one: slurm.why_taken(one, run_dir), crowd)]
    assert found == [Cause.CANCELLED] * len(crowd)
    assert calls.read_text().count("x") <= 3
