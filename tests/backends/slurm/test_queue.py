"""What squeue says of a run's tasks, in the words of several releases; its answers are shared."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from hpoctl.backends import slurm
from hpoctl.backends.slurm import queue
from hpoctl.errors import BatchSystemError
from hpoctl.record import TaskRecord, TaskState
from hpoctl.rundir import RunDir

from ..conftest import FakeProgram, squeue_line

# Slurm 22.05.8, as printed with SLURM_TIME_FORMAT=%s.
LIVE = "\n".join(
    (
        squeue_line(
            job="1", index="1", state="PENDING", restarts="1", start="1795275732",
            end="1795276332", tres="cpu=1,mem=100M,node=1,billing=2,gres/gpu=2",
            reason="JobArrayTaskLimit",
        ),
        squeue_line(
            job="1", index="2", state="RUNNING", start="1795275611", end="1795276211",
            tres="cpu=1,mem=100M,node=1,billing=2,gres/gpu=2", node="n1",
        ),
        squeue_line(
            job="1", index="0", state="FAILED", start="1795275607", end="1795275627",
            tres="cpu=1,mem=100M,node=1,billing=2,gres/gpu=2", node="n1",
            reason="NonZeroExitCode",
        ),
    )
)  # fmt: skip


def test_a_task_that_waits_again_has_a_reason_and_restarts_and_has_not_started() -> None:
    assert queue.parse(LIVE)[0] == TaskRecord(
        task="1_1", state=TaskState.PENDING, reason="JobArrayTaskLimit", restarts=1, gpus=2
    )


def test_the_end_of_a_task_that_runs_is_not_known_and_of_one_that_ended_it_is() -> None:
    running, failed = queue.parse(LIVE)[1:]
    assert (running.started_at, running.ended_at, running.node) == (1795275611.0, None, "n1")
    assert (failed.started_at, failed.ended_at, failed.gpus) == (1795275607.0, 1795275627.0, 2)


@pytest.mark.parametrize(
    ("start", "known"),
    [
        ("2021-03-04T10:00:00", True),  # without SLURM_TIME_FORMAT
        ("1614848400", True),
        ("N/A", False),
        ("Unknown", False),
        ("0", False),
        ("", False),
    ],
)
def test_a_start_is_read_in_each_of_slurms_ways(start: str, known: bool) -> None:
    (task,) = queue.parse(squeue_line(job="1", index="0", state="RUNNING", start=start))
    assert (task.started_at is not None) == known


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=4,mem=8G,node=1,billing=4,gres/gpu=2,gres/gpu:a100=2", 2),  # 23.02 counts types too
        ("cpu=4,mem=8G,node=1,billing=4,gres/gpu:a100=2,gres/gpu:v100=1", 3),
        ("cpu=4,mem=8G,node=1,billing=4", None),
        ("(null)", None),
        ("cpu=4,gres/gpumem=10G,gres/gpuutil=3", None),
    ],
)
def test_gpus_are_counted_in_each_of_the_sites_ways(tres: str, gpus: int | None) -> None:
    (task,) = queue.parse(squeue_line(job="1", index="0", state="RUNNING", tres=tres))
    assert task.gpus == gpus


def test_a_state_that_hpoctl_does_not_know_is_unknown_and_never_success() -> None:
    words = ("STAGE_OUT", "SPECIAL_EXIT", "REVOKED", "REQUEUE_HOLD", "SIGNALING", "EXPEDITING")
    text = "\n".join(squeue_line(job="7", index="0", state=word) for word in words)
    assert {task.state for task in queue.parse(text)} == {TaskState.UNKNOWN}


def test_warnings_and_tasks_that_are_not_of_an_array_are_passed_over() -> None:
    lines = (
        "squeue: note",
        "",
        squeue_line(job="7", index="N/A", state="RUNNING"),
        squeue_line(job="7", index="[4-7%4]", state="PENDING"),
        squeue_line(job="7", index="3", state="RUNNING", node="(null)", reason="(null)"),
    )
    (task,) = queue.parse("\n".join(lines))
    assert (task.task, task.node, task.reason) == ("7_3", None, None)


def counted(fake_program: FakeProgram, tmp_path: Path, then: str) -> Path:
    """A squeue that notes each call and then does this."""
    calls = tmp_path / "calls"
    calls.touch()
    fake_program("squeue", f"echo x >> {calls}; {then}")
    return calls


RUNS = f"echo '{squeue_line(job='7', index='0', state='RUNNING')}'"
AWAY = "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1"


def test_many_who_look_at_once_ask_once(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    calls = counted(fake_program, tmp_path, f"sleep 0.3; {RUNS}")
    seen = []
    lookers = [
        threading.Thread(target=lambda: seen.append(slurm.look(["7"], run_dir))) for _ in range(20)
    ]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert [look.tasks[0].state for look in seen] == [TaskState.RUNNING] * 20
    assert calls.read_text() == "x\n"


def test_a_look_is_new_after_some_seconds_and_for_other_arrays(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    calls = counted(fake_program, tmp_path, RUNS)
    slurm.look(["7"], run_dir)
    slurm.look(["7"], run_dir)
    age(run_dir, 60)
    assert calls.read_text() == "x\n"
    slurm.look(["7"], run_dir)
    slurm.look(["7", "8"], run_dir)
    assert calls.read_text() == "x\n" * 3


def age(run_dir: RunDir, by_s: float) -> None:
    """Makes all that was noted of squeue older."""
    path = run_dir.asked("squeue")
    known = json.loads(path.read_text())
    known["asked_at"] -= by_s
    known["again_at"] -= by_s
    path.write_text(json.dumps(known))


def test_where_slurm_is_away_its_last_words_are_shown_with_their_age_and_it_has_peace(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    counted(fake_program, tmp_path, RUNS)
    slurm.look(["7"], run_dir)
    age(run_dir, 60)
    calls = counted(fake_program, tmp_path, AWAY)
    begun = time.monotonic()
    looks = [slurm.look(["7"], run_dir) for _ in range(5)]
    assert time.monotonic() - begun < 8
    assert {look.tasks[0].state for look in looks} == {TaskState.RUNNING}
    assert all(time.time() - look.asked_at > 59 for look in looks)
    assert all("Unable to contact slurm controller" in (look.silence or "") for look in looks)
    asked = len(calls.read_text().split())
    assert asked <= 5  # some tries in one question, and then no further question
    age(run_dir, 60)
    counted(fake_program, tmp_path, RUNS)
    assert slurm.look(["7"], run_dir).silence is None


def test_without_any_answer_there_are_no_tasks_but_a_reason(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    counted(fake_program, tmp_path, "echo 'squeue: error: Munge decode failed' >&2; exit 1")
    look = slurm.look(["7"], run_dir)
    assert (look.tasks, look.asked_at) == ((), 0.0)
    assert "Munge decode failed" in (look.silence or "")
    with pytest.raises(BatchSystemError, match="Munge"):
        slurm.tasks(["7"], run_dir)


def test_a_slurmctld_that_starts_again_is_waited_for(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    calls = counted(
        fake_program, tmp_path, f"(( $(wc -l < {tmp_path}/calls) < 3 )) && {{ {AWAY}; }}; {RUNS}"
    )
    assert slurm.tasks(["7"], run_dir)[0].state is TaskState.RUNNING
    assert len(calls.read_text().split()) == 3


def test_an_answer_that_a_crash_has_torn_is_asked_for_again(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    counted(fake_program, tmp_path, RUNS)
    run_dir.asked("squeue").write_text('{"argv": ["squ')
    assert slurm.look(["7"], run_dir).silence is None


def test_what_a_surrounding_job_or_a_users_taste_sets_does_not_reach_the_question(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SQUEUE_FORMAT", "SQUEUE_STATES", "SLURM_TIME_FORMAT", "SALLOC_ACCOUNT"):
        monkeypatch.setenv(name, "mine")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    fake_program("squeue", f"env > {tmp_path}/env")
    slurm.look(["7"], run_dir)
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    given = {name: value for name, value in env.items() if name.startswith(("S", "SQUEUE"))}
    assert given.get("SLURM_CONF") == "/etc/slurm.conf"
    assert given.get("SLURM_TIME_FORMAT") == "%s"
    assert not {"SQUEUE_FORMAT", "SQUEUE_STATES", "SALLOC_ACCOUNT"} & given.keys()
    assert os.environ["SQUEUE_FORMAT"] == "mine"
