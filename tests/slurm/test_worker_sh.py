"""The shell around a worker: passes signals on, and starts a worker again that was killed.

The worker is a program of a few lines here; `tests/integration/test_supervisor.py` has a real one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from workplace import is_alive, wait_until

from hpoctl.assets import asset

# Says each life, and what it does in it stands in `life-1`, `life-2` … or else in `life`.
PROGRAM = """\
#!/bin/bash
life=$(( $(cat lives 2>/dev/null | wc -l) + 1 ))
echo "$life $$ $HPOCTL_WALLTIME_S" >> lives
if [ -e "life-$life" ]; then . "./life-$life"; else . ./life; fi
"""
# Lets a minute pass in each life.
AGE = """\
wait() {
  builtin wait "$1"
  local code=$?
  [[ $1 == "$aged" ]] || SECONDS=$((SECONDS + 60))
  aged=$1
  return "$code"
}
"""
AWAIT_SIGNAL = """\
trap 'echo TERM >> heard; exit 3' TERM
trap 'echo USR2 >> heard; exit 3' USR2
trap 'echo CONT >> heard' CONT
touch ready
while :; do sleep 0.02; done
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A folder in which the script runs as an array task would."""

    folder: Path

    def program(self, life: str = "life", *, does: str) -> None:
        (self.folder / life).write_text(does)

    def start(self, setup: str = "", walltime_s: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", str(asset("slurm/worker.sh"))],
            cwd=self.folder,
            env={
                "PATH": os.environ["PATH"],
                "HPOCTL_RUN_DIR": "my run",
                "HPOCTL_PYTHON": str(self.folder / "program"),
                "HPOCTL_SETUP": setup,
                "HPOCTL_WALLTIME_S": walltime_s,
            },
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, setup: str = "", walltime_s: str = "") -> tuple[int, str]:
        """The exit code, and what the script said."""
        with self.start(setup, walltime_s) as task:
            _, said = task.communicate(timeout=30)
        return task.returncode, said

    def lives(self) -> list[list[str]]:
        """Number, process and walltime of each life that has begun."""
        return [line.split() for line in (self.folder / "lives").read_text().splitlines()]

    def await_file(self, name: str) -> None:
        wait_until(lambda: (self.folder / name).exists())


@pytest.fixture
def task(tmp_path: Path) -> Task:
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return Task(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 3, 140, 143])
def test_a_worker_that_left_is_not_started_again_and_its_exit_code_is_the_tasks(
    task: Task, code: int
) -> None:
    task.program(does=f"exit {code}")
    assert task.run() == (code, "")
    assert len(task.lives()) == 1


@pytest.mark.parametrize("name", ["KILL", "SEGV", "ABRT", "BUS"])
def test_a_worker_that_was_killed_is_started_again(task: Task, name: str) -> None:
    task.program("life-1", does=f"ulimit -c 0; kill -{name} $$")
    task.program(does="exit 4")
    code, said = task.run()
    assert code == 4
    assert len(task.lives()) == 2
    assert f"the worker was ended by SIG{name} after 0 s: it is started again\n" in said


def test_a_worker_that_dies_at_once_is_not_started_for_ever(task: Task) -> None:
    task.program(does="kill -KILL $$")
    code, said = task.run()
    assert code == 128 + signal.SIGKILL
    assert len(task.lives()) == 2
    assert "so soon for the second time: it is not started again" in said


def test_a_worker_that_dies_again_and_again_has_six_lives(task: Task) -> None:
    task.program(does="kill -KILL $$")
    code, said = task.run(setup=AGE)
    assert code == 128 + signal.SIGKILL
    assert len(task.lives()) == 6
    assert "after 60 s, in its life 6: it is not started again" in said


def test_a_later_life_has_what_is_left_of_the_walltime(task: Task) -> None:
    task.program(does="kill -KILL $$")
    task.run(setup=AGE, walltime_s="200")
    left = [int(walltime) for _, _, walltime in task.lives()]
    assert left[-2:] == [1, 1]
    for life, seconds in enumerate(left[:4]):
        assert 200 - 60 * life - 5 < seconds <= 200 - 60 * life


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_signal_reaches_the_worker_and_the_task_ends_as_the_worker_does(
    task: Task, name: str
) -> None:
    task.program(does=AWAIT_SIGNAL)
    with task.start() as started:
        task.await_file("ready")
        started.send_signal(signal.Signals[f"SIG{name}"])
        assert started.wait(timeout=20) == 3
    assert (task.folder / "heard").read_text() == f"{name}\n"
    assert len(task.lives()) == 1


def test_ctrl_c_lets_the_worker_leave(task: Task) -> None:
    task.program(does=AWAIT_SIGNAL)
    with task.start() as started:
        task.await_file("ready")
        os.killpg(started.pid, signal.SIGINT)
        assert started.wait(timeout=20) == 3
    assert (task.folder / "heard").read_text() == "TERM\n"


def test_a_signal_that_tells_nobody_to_leave_leaves_the_worker_running(task: Task) -> None:
    task.program("life-1", does=AWAIT_SIGNAL)
    task.program(does="exit 0")
    with task.start() as started:
        task.await_file("ready")
        started.send_signal(signal.SIGCONT)
        task.await_file("heard")
        assert (task.folder / "heard").read_text() == "CONT\n"
        os.kill(int(task.lives()[0][1]), signal.SIGKILL)
        assert started.wait(timeout=20) == 0
    assert len(task.lives()) == 2


def test_signals_in_quick_succession_do_not_end_the_task_before_its_worker(task: Task) -> None:
    # Slurm sends CONT and TERM within a millisecond, and at a walltime's end USR2 before them.
    # bash's `wait` may then answer with a signal whose trap has run already.
    task.program(does="trap '' TERM USR2 CONT; touch ready-$$; sleep 1.5; touch done-$$; exit 7\n")
    shells = [task.start() for _ in range(8)]
    wait_until(lambda: len([*task.folder.glob("ready-*")]) == len(shells))
    chance = random.Random(1)
    for _ in range(25):
        for number in (signal.SIGUSR2, signal.SIGCONT, signal.SIGTERM):
            for shell in shells:
                shell.send_signal(number)
            time.sleep(chance.random() * chance.choice([1e-5, 1e-4, 1e-3]))
        time.sleep(0.02)
    for shell in shells:
        shell.communicate(timeout=30)
    assert [shell.returncode for shell in shells] == [7] * len(shells)
    assert len([*task.folder.glob("done-*")]) == len(shells)


def test_a_worker_that_is_killed_after_it_was_told_to_leave_is_not_started_again(
    task: Task,
) -> None:
    task.program(does="trap 'touch heard' TERM; touch ready; while :; do sleep 0.02; done")
    with task.start() as started:
        task.await_file("ready")
        started.terminate()
        task.await_file("heard")
        os.kill(int(task.lives()[0][1]), signal.SIGKILL)
        assert started.wait(timeout=20) == 128 + signal.SIGKILL
    assert len(task.lives()) == 1


def test_a_signal_during_the_setup_ends_the_task_before_any_worker(task: Task) -> None:
    with task.start(setup="touch ready; while :; do sleep 0.02; done") as started:
        task.await_file("ready")
        started.terminate()
        assert started.wait(timeout=20) == -signal.SIGTERM
    assert not (task.folder / "lives").exists()


@pytest.mark.parametrize("setup", ["false", "exit 7", "f() { false; }; f", ": ${nothing:?is not}"])
def test_a_setup_that_fails_says_so(task: Task, setup: str) -> None:
    code, said = task.run(setup=setup)
    assert code != 0
    assert said.splitlines()[-1].startswith("hpoctl: resources.setup ended with exit code ")
    assert said.endswith(": no worker was started\n")
    assert not (task.folder / "lives").exists()


def test_what_a_setup_leaves_for_its_end_is_done_and_what_it_started_is_not_waited_for(
    task: Task,
) -> None:
    task.program(does="exit 5")
    pid = "sleep 600 & echo $! > pid; trap 'touch gone; kill $(cat pid)' EXIT; set -u"
    assert task.run(setup=pid) == (5, "")
    assert (task.folder / "gone").exists()


def test_a_worker_ends_with_its_shell(task: Task) -> None:
    python = task.folder / "program"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from hpoctl.cli.inside import _end_with\n"
        "_end_with(os.environ.pop('HPOCTL_SUPERVISOR'))\n"
        "Path('ready').write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    with task.start(setup=f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}") as started:
        wait_until(lambda: (task.folder / "ready").exists())
        wait_until(lambda: (task.folder / "ready").read_text())
        worker = int((task.folder / "ready").read_text())
        started.kill()
    wait_until(lambda: not is_alive(worker))


def test_a_worker_whose_shell_died_while_it_was_loaded_ends_at_once(task: Task) -> None:
    python = task.folder / "program"
    python.write_text(
        f"#!{sys.executable}\n"
        "import os, time\n"
        "from pathlib import Path\n"
        "Path('loading').write_text(str(os.getpid()))\n"
        "while not Path('loaded').exists():\n"
        "    time.sleep(0.02)\n"
        "from hpoctl.cli.inside import _end_with\n"
        "_end_with(os.environ.pop('HPOCTL_SUPERVISOR'))\n"
        "time.sleep(600)\n"
    )
    loading = task.folder / "loading"
    with task.start(setup=f"export PYTHONPATH={os.environ.get('PYTHONPATH', '')}") as started:
        wait_until(lambda: loading.exists() and loading.read_text())
        worker = int(loading.read_text())
        started.kill()
    (task.folder / "loaded").touch()
    wait_until(lambda: not is_alive(worker))
