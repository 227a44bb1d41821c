"""A worker in a container: what it sees, what it may ask outside, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from apptainer import APPTAINER
from servers import wait_for

from hpoctl.plan import JobArray
from hpoctl.rundir import RunDir
from hpoctl.script import body, exports
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep

ASKS = """
import os, sys
from hpoctl.backends.slurm.ask import ask
print(ask(sys.argv[1:]), os.environ.get("HPOCTL_STORAGE"), os.environ["PATH"])
"""


@dataclass(frozen=True, slots=True)
class Task:
    """A folder in which the whole script runs, with programs of its own on PATH."""

    folder: Path

    def program(self, name: str, text: str) -> Path:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(self, python: Path, **resources: object) -> subprocess.Popen[str]:
        space = SearchSpace({"a": Int(low=1, high=9)})
        container = {"image": "train.sif", "args": ["--nv", "--cleanenv"], "binds": ["/data:/d:ro"]}
        sweep = Sweep.model_validate(
            {
                "study": "s",
                "objective": "m:f",
                "search_space": space,
                "budget": {"trials": 3},
                "storage": {"url_env": "HPOCTL_STORAGE"},
                "resources": {"container": container, "python": str(python), **resources},
            }
        )
        run_dir = RunDir(self.folder / "my run")
        script = self.folder / "task.sh"
        array = JobArray(name="a", tasks=1)
        script.write_text(body(exports(array, sweep, run_dir, self.folder)))
        return subprocess.Popen(
            ["bash", str(script)],
            cwd=self.folder,
            env={
                "PATH": f"{self.folder}/bin:/usr/bin:/bin",
                "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
                "SLURM_ARRAY_JOB_ID": "7",
                "SLURM_ARRAY_TASK_ID": "3",
                "SLURM_CONF": "/etc/slurm.conf",
                "SQUEUE_FORMAT": "mine",
                "HPOCTL_STORAGE": "s3cret-canary",
                "TMPDIR": str(self.folder),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, python: Path, **resources: object) -> tuple[int, str, str]:
        with self.start(python, **resources) as task:
            out, said = task.communicate(timeout=60)
        return task.returncode, out, said

    def doors(self) -> list[Path]:
        return list(self.folder.glob("tmp.*"))


@pytest.fixture
def task(tmp_path: Path) -> Task:
    task = Task(tmp_path)
    task.program("apptainer", APPTAINER)
    return task


def asking(task: Task, *words: str) -> Path:
    """A Python that asks Slurm for something in place of the worker."""
    said = " ".join(words)
    (task.folder / "asks.py").write_text(ASKS)
    text = f"#!/bin/bash\nexec {sys.executable} {task.folder}/asks.py {said}\n"
    return task.program("python", text)


def test_the_container_sees_the_run_its_folder_and_what_the_sweep_binds(task: Task) -> None:
    python = task.program("python", "#!/bin/bash\necho worker $*\n")
    code, out, said = task.run(python)
    assert (code, said) == (0, "")
    assert out == f"worker -m hpoctl worker {task.folder}/my run\n"
    words = (task.folder / "apptainer-args").read_text().splitlines()
    (door,) = (word for word in words if "tmp." in word)
    assert words == [
        *("exec", "--bind", door, "--nv", "--cleanenv"),
        *("--bind", f"{task.folder}/my run", "--bind", str(task.folder)),
        *("--bind", "/data:/d:ro", f"{task.folder}/train.sif"),
        *(str(python), "-m", "hpoctl", "worker", f"{task.folder}/my run"),
    ]
    assert task.doors() == []


def test_the_task_and_the_credential_get_in_and_the_credential_is_no_argument(task: Task) -> None:
    python = task.program("python", '#!/bin/bash\necho "$HPOCTL_TASK $HPOCTL_STORAGE"\n')
    assert task.run(python) == (0, "7_3 s3cret-canary\n", "")
    assert b"s3cret" not in (task.folder / "apptainer-cmdline").read_bytes()
    assert "s3cret" not in (task.folder / "task.sh").read_text()


def test_slurms_commands_are_run_outside_in_an_environment_of_their_own(task: Task) -> None:
    squeue = "#!/bin/bash\nenv | grep -E '^(SLURM|SQUEUE|HPOCTL_(TASK|STORAGE))' | sort; echo $*\n"
    task.program("squeue", squeue)
    code, out, said = task.run(asking(task, "squeue", "--jobs=7", "--format=%i"))
    assert (code, said) == (0, "")
    assert out.splitlines() == [
        "HPOCTL_STORAGE=s3cret-canary",  # sbatch hands it on to the next task
        "SLURM_CONF=/etc/slurm.conf",
        "SLURM_TIME_FORMAT=%s",
        "--jobs=7 --format=%i",
        " s3cret-canary /nowhere",
    ]
    assert task.doors() == []


def test_a_refusal_outside_is_one_inside_too(task: Task) -> None:
    task.program("sbatch", "#!/bin/bash\necho 'sbatch: error: Invalid account' >&2; exit 1\n")
    code, _, said = task.run(asking(task, "sbatch", "--parsable", "x.sh"))
    assert code == 1
    assert said.splitlines()[-1].endswith(
        "BatchSystemError: sbatch --parsable x.sh: Invalid account"
    )


def test_a_command_that_is_not_outside_either_is_not_here(task: Task) -> None:
    task.program("sacct", "#!/bin/bash\nexit 127\n")  # as a shell says it
    code, _, said = task.run(asking(task, "sacct"))
    assert code == 1
    assert "NotHere: sacct is not on this machine" in said.splitlines()[-1]


def test_what_is_no_command_of_slurm_is_not_run(task: Task) -> None:
    code, _, said = task.run(asking(task, "touch", "here"))
    assert code == 1
    assert "touch here: exit code 126" in said
    assert not (task.folder / "here").exists()


def test_without_apptainer_the_way_out_is_named(task: Task) -> None:
    (task.folder / "bin" / "apptainer").unlink()
    python = task.program("python", "#!/bin/bash\necho on\n")
    code, out, said = task.run(python)
    assert (code, out) == (127, "")
    assert "give resources.setup the line that brings it, such as 'module load apptainer'" in said


@pytest.mark.parametrize("name", ["TERM", "USR2"])
def test_a_signal_reaches_the_worker_in_it(task: Task, name: str) -> None:
    python = task.program(
        "python",
        f"#!/bin/bash\ntrap 'echo heard; exit 3' {name}\n: > {task.folder}/ready\n"
        "while :; do /bin/sleep 0.02; done\n",
    )
    with task.start(python) as started:
        wait_for((task.folder / "ready").exists, 30, "the worker runs")
        started.send_signal(signal.Signals[f"SIG{name}"])
        out, said = started.communicate(timeout=30)
    assert (started.returncode, out, said) == (3, "heard\n", "")
    assert task.doors() == []


def test_a_worker_that_is_killed_in_it_is_started_again(task: Task) -> None:
    python = task.program(
        "python",
        f"#!/bin/bash\n[[ ! -e {task.folder}/once ]] || exit 4\n"
        f": > {task.folder}/once; kill -KILL $$\n",
    )
    code, _, said = task.run(python)
    assert code == 4
    assert "it is started again" in said
