"""The Slurm backend: its scripts, what it reads from Slurm, and what it says when Slurm refuses."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from hpoctl.assets import read
from hpoctl.backends import slurm
from hpoctl.errors import BatchSystemError
from hpoctl.limits import Limits
from hpoctl.plan import JobArray
from hpoctl.record import TaskState
from hpoctl.rundir import RunDir

from .conftest import FakeProgram, make_sweep, squeue_line

GOLDEN = Path(__file__).parents[1] / "golden"
ARRAY = JobArray(name="round-1", tasks=10, at_once=4, trials_per_task=2)


def options(script: str) -> list[str]:
    return [line[8:] for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_is_header_exports_and_the_workers_script_verbatim() -> None:
    sweep = make_sweep(
        study="gpt2 lr",
        resources={
            "partition": "alvis",
            "account": "NAISS2026-1-1",
            "qos": "normal",
            "gpus": "A100:2",
            "cpus": 16,
            "mem": "64G",
            "time": "1-02:03:04",
            "setup": ["module load PyTorch", 'export NOTE="it\'s 100% $(hostname)"'],
            "python": "/opt/my env/bin/python",
            "sbatch": ["--constraint=nvme", "--mail-type=END"],
        },
    )
    script = slurm.script(ARRAY, sweep, RunDir(Path("/scratch/me/my runs/gpt2-lr")))
    header, _, worker = script.partition("# shellcheck shell=bash\n")
    assert header == (GOLDEN / "slurm_script_header.sh").read_text()
    assert f"# shellcheck shell=bash\n{worker}" == read("slurm/worker.sh")


def test_a_script_without_wishes_asks_only_for_what_hpoctl_needs() -> None:
    script = slurm.script(JobArray(name="workers", tasks=1), make_sweep(), RunDir(Path("/r")))
    assert options(script) == [
        "--job-name=hpo-s-workers",
        "--array=0-0",
        '--output="/r/logs/%A_%a.log"',
        "--open-mode=append",
        "--time=1:00:00",
        "--signal=B:USR2@120",
        "--cpus-per-task=1",
    ]


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("/my runs", '"/my runs/logs/%A_%a.log"'),
        ("/100%", '"/100%%/logs/%A_%a.log"'),
        ('/a"b', '"/a\\"b/logs/%A_%a.log"'),
        ("/a\\b", '"/a\\\\b/logs/%A_%a.log"'),
        ("/$(id)", '"/$(id)/logs/%A_%a.log"'),  # no shell reads a #SBATCH line
    ],
)
def test_the_log_is_named_as_slurm_must_read_it(folder: str, shown: str) -> None:
    script = slurm.script(ARRAY, make_sweep(), RunDir(Path(folder)))
    assert f"--output={shown}" in options(script)


@pytest.mark.parametrize(
    ("time", "clock", "warning"),
    [("30m", "0:30:00", 120), ("100h", "100:00:00", 120), ("1m", "0:01:00", 12)],
)
def test_the_warning_comes_in_time_for_short_allocations_too(
    time: str, clock: str, warning: int
) -> None:
    script = slurm.script(ARRAY, make_sweep(resources={"time": time}), RunDir(Path("/r")))
    assert f"--time={clock}" in options(script)
    assert f"--signal=B:USR2@{warning}" in options(script)


def test_gpus_without_a_type_and_no_gpus(run_dir: RunDir) -> None:
    with_gpus = slurm.script(ARRAY, make_sweep(resources={"gpus": 2}), run_dir)
    assert "--gres=gpu:2" in options(with_gpus)
    without = options(slurm.script(ARRAY, make_sweep(), run_dir))
    assert not [option for option in without if option.startswith("--gres")]


def test_a_name_of_a_study_cannot_add_an_option() -> None:
    sweep = make_sweep(study="x --account=theirs\u2028#SBATCH --qos=high")
    names = [o for o in options(slurm.script(ARRAY, sweep, RunDir(Path("/r")))) if "job-name" in o]
    assert len(names) == 1
    assert " " not in names[0]


def test_the_exports_of_a_script_survive_bash(run_dir: RunDir) -> None:
    script = slurm.script(ARRAY, make_sweep(), run_dir)
    exports = script.partition("# shellcheck")[0]
    shown = subprocess.run(
        ["bash", "-c", f'{exports}\nprintf %s "$HPOCTL_RUN_DIR"'],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert shown.stdout == str(run_dir.path)


def test_all_arrays_are_asked_for_in_one_question(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    line = squeue_line(job="7", index="0", state="RUNNING")
    fake_program("squeue", f'echo "$@" >> {tmp_path}/asked; echo "{line}"')
    (task,) = slurm.tasks(["7", "8", "9"], run_dir)
    assert task.state is TaskState.RUNNING
    (asked,) = (tmp_path / "asked").read_text().splitlines()
    assert "--jobs=7,8,9" in asked


def test_no_arrays_are_no_question(fake_program: FakeProgram, run_dir: RunDir) -> None:
    fake_program("squeue", "exit 9")
    assert slurm.tasks([], run_dir) == ()
    slurm.cancel([], run_dir)


def test_arrays_that_slurm_has_forgotten_are_no_tasks(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    fake_program("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    assert slurm.tasks(["7"], run_dir) == ()


# sbatch, scancel, scontrol


def test_submit_gives_the_id_without_the_name_of_the_cluster(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    fake_program("sbatch", f'printf "%s\\n" "$@" > {tmp_path}/asked; echo "4711;alvis"')
    script = run_dir.script("round-1")
    assert slurm.submit(script, ARRAY, make_sweep(), run_dir, after=["4710", "4709"]) == "4711"
    assert (tmp_path / "asked").read_text().splitlines() == [
        "--parsable",
        "--dependency=afterany:4710:4709",
        str(script),
    ]


def test_a_refusal_shows_the_command_and_what_slurm_said(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    fake_program(
        "sbatch",
        'echo "sbatch: error: Batch job submission failed: Invalid account" >&2\n'
        'echo "sbatch: error: second line" >&2; exit 1',
    )
    with pytest.raises(BatchSystemError) as refused:
        slurm.submit(Path("/r/x.sh"), ARRAY, make_sweep(), run_dir, after=())
    assert str(refused.value) == (
        "sbatch --parsable /r/x.sh: Batch job submission failed: Invalid account"
        " sbatch: error: second line"
    )
    assert refused.value.exit_code == 3


def test_a_controller_that_is_away_is_one_line_with_the_way_out(
    fake_program: FakeProgram, run_dir: RunDir
) -> None:
    fake_program(
        "sbatch",
        'echo "sbatch: error: slurm_receive_msg: Zero Bytes were transmitted or received" >&2\n'
        'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller'
        ' (connect failure)" >&2; exit 1',
    )
    with pytest.raises(BatchSystemError) as refused:
        slurm.submit(Path("/r/x.sh"), ARRAY, make_sweep(), run_dir, after=())
    assert str(refused.value) == (
        "sbatch: Zero Bytes were transmitted: try again in a minute;"
        " 'hpoctl doctor' looks whether it is back"
    )


def test_a_surrounding_allocation_does_not_become_options_of_ours(
    fake_program: FakeProgram,
    run_dir: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "set")
    fake_program("sbatch", f"env > {tmp_path}/env; echo 1")
    slurm.submit(Path("/r/x.sh"), ARRAY, make_sweep(), run_dir, after=())
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    assert {name for name in names if name.startswith("SLURM_")} == {"SLURM_CONF"}
    assert "SBATCH_ACCOUNT" in names  # that one the user set for every sbatch of theirs


def test_without_slurm_the_error_names_the_way_out(
    run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BatchSystemError) as refused:
        slurm.tasks(["7"], run_dir)
    assert str(refused.value) == (
        "squeue is not on this machine: run this on the login node, or add --backend local"
    )
    assert refused.value.exit_code == 3
    assert slurm.limits(newer_than=time.time()) == Limits()


def test_cancel_names_every_array_that_is_still_this_runs(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "moved").symlink_to(run_dir.path)
    (tmp_path / "jobs").write_text(
        f"7|{run_dir.path}/workers.sh|any\n7|{run_dir.path}/workers.sh|any\n"
        f"8|{tmp_path}/moved/attached-1.sh|any\n"
        "9|/elsewhere/workers.sh|hpo-s-attached-2\n"
        "10|/home/me/other.sh|train|it\n"  # has the id of one that slurmctld forgot
    )
    fake_program("squeue", f"cat {tmp_path}/jobs")
    fake_program("scancel", f'echo "$@" > {tmp_path}/asked')
    slurm.cancel(["7", "8", "9", "10"], run_dir)
    assert (tmp_path / "asked").read_text() == "7 8 9\n"
    slurm.withdraw(["7", "8", "9", "10"], run_dir)
    assert (tmp_path / "asked").read_text() == "--state=PENDING 7 8 9\n"


def test_arrays_that_slurm_has_forgotten_need_no_cancel(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path
) -> None:
    fake_program("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    fake_program("scancel", f"touch {tmp_path}/asked")
    slurm.cancel(["7"], run_dir)
    assert not (tmp_path / "asked").exists()


def test_an_array_whose_submitter_died_is_found_by_its_script(fake_program: FakeProgram) -> None:
    fake_program("squeue", 'echo "41|/r/round-2.sh"; echo "42|/r/round-1.sh"')
    assert slurm.find(Path("/r/round-1.sh")) == "42"
    assert slurm.find(Path("/r/round-3.sh")) is None
    fake_program("squeue", "true")
    assert slurm.find(Path("/r/round-1.sh")) is None


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("gres", "--gres=gpu:a100:2"),
        ("gpus", "--gpus=a100:2"),
        ("gpus-per-node", "--gpus-per-node=a100:2"),
        ("gpus-per-task", "--gpus-per-task=a100:2"),
    ],
)
def test_gpus_are_asked_for_in_the_sites_dialect(run_dir: RunDir, flag: str, said: str) -> None:
    sweep = make_sweep(resources={"gpus": "a100:2", "gpu_flag": flag})
    assert said in options(slurm.script(ARRAY, sweep, run_dir))


def test_a_task_that_submits_another_does_not_give_it_its_name(
    fake_program: FakeProgram, run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "HPOCTL_TASK", "HPOCTL_NODE", "HPOCTL_STORAGE"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/a:/b:/a")
    fake_program("sbatch", f"env > {tmp_path}/env; echo 1")
    slurm.submit(Path("/r/x.sh"), ARRAY, make_sweep(), run_dir, after=())
    lines = (tmp_path / "env").read_text().splitlines()
    names = {line.partition("=")[0] for line in lines}
    assert not names & {"SLURM_JOB_ID", "HPOCTL_TASK", "HPOCTL_NODE"}
    assert "HPOCTL_STORAGE" in names
    assert "LD_LIBRARY_PATH=/a:/b" in lines
