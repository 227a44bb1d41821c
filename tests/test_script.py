"""A script is exports and a file verbatim: every value reaches the worker as it stands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hpoctl.assets import read
from hpoctl.plan import JobArray
from hpoctl.rundir import RunDir
from hpoctl.script import body, exports
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import Sweep

NASTY = st.text(
    st.one_of(
        st.sampled_from(list("'\"$`\\!*?~#&|;<>(){}[] \n\t%=")),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=40,
)


def make_sweep(**resources: object) -> Sweep:
    space = SearchSpace({"a": Int(low=1, high=9)})
    given_ = {"study": "s", "objective": "m:f", "search_space": space, "budget": {"trials": 3}}
    return Sweep.model_validate({**given_, "resources": resources})


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.from_regex(r"HPOCTL_[A-Z]{1,8}", fullmatch=True), NASTY, max_size=6))
def test_exports_survive_bash(variables: dict[str, str]) -> None:
    exported = body(variables).removesuffix(read("slurm/worker.sh"))
    shown = subprocess.run(
        ["bash", "-c", f"{exported}\nenv -0"],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
        timeout=20,
        check=True,
    )
    lines = shown.stdout.decode().split("\0")
    pairs = dict(line.split("=", 1) for line in lines if line.startswith("HPOCTL_"))
    assert pairs == variables


def test_the_workers_script_follows_verbatim() -> None:
    assert body({"HPOCTL_A": "1"}) == f"export HPOCTL_A=1\n\n{read('slurm/worker.sh')}"


def test_the_exports_say_all_that_the_worker_needs() -> None:
    array = JobArray(name="round-1", tasks=2, trials_per_task=4)
    sweep = make_sweep(cpus=8, gpus="A100:2", time="1h", setup=["module load X", "export A=b"])
    assert exports(array, sweep, RunDir(Path("/r"))) == {
        "HPOCTL_RUN_DIR": "/r",
        "HPOCTL_PYTHON": sys.executable,
        "HPOCTL_TRIALS_PER_TASK": "4",
        "HPOCTL_CPUS": "8",
        "HPOCTL_GPUS": "2",
        "HPOCTL_WALLTIME_S": "3600",
        "HPOCTL_SETUP": "module load X\nexport A=b",
    }


def test_a_worker_without_a_count_has_an_empty_one() -> None:
    exported = exports(JobArray(name="workers", tasks=2), make_sweep(), RunDir(Path("/r")))
    assert exported["HPOCTL_TRIALS_PER_TASK"] == ""


def test_setup_lines_run_before_the_worker_in_one_shell_and_the_name_of_the_task_is_slurms(
    tmp_path: Path,
) -> None:
    python = tmp_path / "my python"
    python.write_text('#!/bin/bash\necho "$NOTE|$HPOCTL_TASK|$*"\n')
    python.chmod(0o755)
    sweep = make_sweep(
        setup=["NOTE='two  words'", "export NOTE", "true $unset"], python=str(python)
    )
    text = body(exports(JobArray(name="a", tasks=1), sweep, RunDir(tmp_path / "my run")))
    ran = subprocess.run(
        ["bash"],
        input=text,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
        timeout=20,
        check=True,
    )
    assert ran.stdout == f"two  words|7_3|-m hpoctl worker {tmp_path}/my run\n"


def test_a_setup_line_that_fails_ends_the_task() -> None:
    sweep = make_sweep(setup=["module load Nothing", "echo on"], python="/bin/echo")
    text = body(exports(JobArray(name="a", tasks=1), sweep, RunDir(Path("/r"))))
    ran = subprocess.run(
        ["bash"], input=text, capture_output=True, text=True, timeout=20, check=False
    )
    assert ran.returncode != 0
    assert ran.stdout == ""


def shellcheck(path: Path, *flags: str) -> None:
    checked = subprocess.run(
        ["shellcheck", *flags, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stdout


def test_the_workers_script_passes_shellcheck() -> None:
    shellcheck(Path(__file__).parents[1] / "slurm" / "worker.sh")


def test_a_whole_script_passes_shellcheck(tmp_path: Path) -> None:
    sweep = make_sweep(setup=["echo 'it is' \"$(date)\" 100%"])
    text = body(exports(JobArray(name="a", tasks=1), sweep, RunDir(Path("/my runs/it's"))))
    script = tmp_path / "script.sh"
    script.write_text(f"#!/bin/bash\n{text}")
    # SC2016 is no fault here: what a setup line expands is expanded in the allocation.
    shellcheck(script, "--exclude=SC2016")
