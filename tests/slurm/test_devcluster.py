"""The development cluster, slurm/devcluster/devcluster, tried for real: needs root and Slurm."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
from servers import Slurm

DEVCLUSTER = Path(__file__).parents[2] / "slurm" / "devcluster" / "devcluster"
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd.n1", "slurmd.n2")


def missing() -> str | None:
    """Why no cluster can run here, if so."""
    if os.geteuid() != 0:
        return "the development cluster needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def require_cluster() -> None:
    """Skip without root or Slurm, except in CI, where that would hide that nothing was tested."""
    reason = missing()
    if reason is not None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


def devcluster(*args: str | Path) -> subprocess.CompletedProcess[str]:
    command = [str(DEVCLUSTER), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def wait_until(true: Callable[[], bool], what: str, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def alive(process: Path) -> bool:
    """Whether /proc/PID is there and no zombie, which only its parent can take away."""
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_of(folder: Path) -> list[str]:
    """The command line of each process that names the folder there, or lives by its slurm.conf."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ").decode()
            environ = process.joinpath("environ").read_bytes().split(b"\0")
            cwd = process.joinpath("cwd").readlink()
        except OSError:
            continue
        ours = f"{folder}/" in command or f"SLURM_CONF={folder}/slurm.conf".encode() in environ
        if ours or (command.startswith("slurmstepd") and cwd == folder):
            found.append(command)
    return found


@dataclass
class Cluster:
    folder: Path = field(
        # A short path, because unix sockets live in it.
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="hpo", dir="/tmp")).resolve()
    )

    def up(self) -> None:
        result = devcluster("up", self.folder)
        assert result.returncode == 0, result.stderr
        assert result.stdout == f"export SLURM_CONF={self.folder}/slurm.conf\n"

    def slurm(self, *command: str) -> str:
        env = {**os.environ, "SLURM_CONF": f"{self.folder}/slurm.conf"}
        result = subprocess.run(
            command, env=env, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.strip()

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a script, give back its job id."""
        return self.slurm("sbatch", "--parsable", "-o", "/dev/null", *options, "--wrap", script)

    def states(self, job: str) -> list[str]:
        """The accounted state of the job, or of each task of an array."""
        return self.slurm("sacct", "-XnP", "-o", "State", "-j", job).split("\n")

    def times(self, job: str, column: str) -> list[float]:
        """Start or End of each task of the job, in seconds."""
        lines = self.slurm("sacct", "-XnP", "-o", column, "-j", job).split("\n")
        return [datetime.fromisoformat(line).timestamp() for line in lines]

    def pid(self, name: str) -> int:
        return int(self.folder.joinpath("run", f"{name}.pid").read_text())

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in DAEMONS}

    def remove(self) -> None:
        result = devcluster("down", self.folder)
        assert result.returncode == 0, result.stderr
        shutil.rmtree(self.folder)


@pytest.fixture(scope="module")
def cluster(slurm: Slurm) -> Cluster:
    """The one that all tests share; whoever ends a daemon of it brings it up again."""
    return Cluster(slurm.folder)


@pytest.fixture
def second_cluster() -> Iterator[Cluster]:
    require_cluster()
    it = Cluster()
    try:
        it.up()
        yield it
    finally:
        it.remove()


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("up",),
        ("sideways", "/tmp/x"),
        ("up", "/tmp/x", "--nodes", "0"),
        ("start", "/tmp/x"),
        ("down", "/tmp/x", "y"),
    ],
)
def test_bad_usage(args: tuple[str, ...]) -> None:
    result = devcluster(*args)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: ")


@pytest.mark.parametrize("folder", ["/tmp/with space", f"/tmp/{'long' * 20}"])
def test_folder_that_cannot_work(folder: str) -> None:
    require_cluster()
    result = devcluster("up", folder)
    assert result.returncode == 2
    assert result.stderr.startswith(f"devcluster: cannot use '{folder}'")
    assert result.stderr.count("\n") == 1
    assert not Path(folder).exists()


def test_folder_of_something_else() -> None:
    require_cluster()
    folder = Path(tempfile.mkdtemp(prefix="hpo", dir="/tmp"))
    try:
        folder.joinpath("thesis.tex").touch()
        result = devcluster("up", folder)
        assert result.returncode == 2
        assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    finally:
        shutil.rmtree(folder)


def test_up_again_changes_nothing(cluster: Cluster) -> None:
    before = cluster.pids()
    config = cluster.folder.joinpath("slurm.conf").stat()
    result = devcluster("up", cluster.folder)
    assert result.returncode == 0
    assert result.stdout == f"export SLURM_CONF={cluster.folder}/slurm.conf\n"
    assert result.stderr == ""
    assert cluster.pids() == before
    assert cluster.folder.joinpath("slurm.conf").stat().st_mtime_ns == config.st_mtime_ns


def test_up_with_another_number_of_nodes_is_refused(cluster: Cluster) -> None:
    result = devcluster("up", cluster.folder, "--nodes", "3")
    assert result.returncode == 2
    assert "has 2 nodes" in result.stderr


def test_status(cluster: Cluster) -> None:
    result = devcluster("status", cluster.folder)
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[:6] == [[name, str(pid), "up"] for name, pid in cluster.pids().items()]
    assert lines[6][0] == "PARTITION"


def test_array_tasks_get_gpus_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    # Each task waits for all eight to run: then two with the same GPU cannot be one after another.
    script = f"""
        echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES >{tmp_path}/$SLURM_ARRAY_TASK_ID
        for i in $(seq 200); do [ $(ls {tmp_path} | wc -l) = 8 ] && exit; sleep 0.1; done; exit 1
    """
    job = cluster.sbatch(script, "--array=0-7", "--gres=gpu:1")
    wait_until(lambda: cluster.states(job) == ["COMPLETED"] * 8, "all tasks completed")
    gpus = sorted(path.read_text().strip() for path in tmp_path.iterdir())
    assert gpus == [f"{node} {gpu}" for node in ("n1", "n2") for gpu in range(4)]


def test_a_dependent_array_starts_soon(cluster: Cluster) -> None:
    first = cluster.sbatch("true", "--array=0-3")
    second = cluster.sbatch("true", "--array=0-3", f"--dependency=afterok:{first}")
    # Accounting hears of a job up to five seconds late, so compare the times that it gives.
    wait_until(lambda: cluster.states(second) == ["COMPLETED"] * 4, "dependents completed")
    end, start = cluster.times(first, "End"), cluster.times(second, "Start")
    assert 0 <= max(start) - max(end) <= 3


def test_up_heals_a_killed_node(cluster: Cluster) -> None:
    before = cluster.pids()
    pid_file = cluster.folder / "run" / "slurmd.n1.pid"
    os.kill(before["slurmd.n1"], 9)
    wait_until(lambda: not alive(Path(f"/proc/{before['slurmd.n1']}")), "slurmd's end")
    # After a reboot a stale pid may be some other process: this one, which must survive.
    pid_file.write_text(f"{os.getpid()}\n")
    status = devcluster("status", cluster.folder)
    assert status.returncode == 1
    assert ["slurmd.n1", "-", "down"] in [line.split() for line in status.stdout.splitlines()]

    cluster.up()
    after = cluster.pids()
    assert after.pop("slurmd.n1") not in (before.pop("slurmd.n1"), os.getpid())
    assert after == before
    job = cluster.sbatch("true", "--nodelist=n1")
    wait_until(lambda: cluster.states(job) == ["COMPLETED"], "a job on the healed node")


def test_a_daemon_is_started_without_waiting_for_the_nodes(cluster: Cluster) -> None:
    before = cluster.pids()
    # In order: one that is killed forgets its last seconds, and gives its last job ids again.
    os.kill(before["slurmctld"], 15)
    wait_until(lambda: not alive(Path(f"/proc/{before['slurmctld']}")), "slurmctld's end")
    for _ in range(2):  # the second one has nothing to do
        result = devcluster("start", cluster.folder, "slurmctld")
        assert (result.returncode, result.stdout) == (0, ""), result.stderr
    cluster.slurm("scontrol", "ping")
    after = cluster.pids()
    assert after.pop("slurmctld") != before.pop("slurmctld")
    assert after == before
    assert devcluster("start", cluster.folder, "slurmd.n9").returncode == 2
    cluster.up()


def test_a_job_of_the_high_qos_sends_others_back_to_the_queue(cluster: Cluster) -> None:
    # Runs until it is ended by somebody, and in its second life not at all.
    first = cluster.sbatch("sleep $((60 - 60 * ${SLURM_RESTART_COUNT:-0}))", "--nodelist=n1")
    wait_until(lambda: cluster.slurm("squeue", "-h", "-j", first, "-o", "%T") == "RUNNING", "a job")
    urgent = ("--qos=high", "--nodelist=n1", "--exclusive", "--time=1")
    second = cluster.sbatch("true", *urgent)
    wait_until(lambda: cluster.states(second) == ["COMPLETED"], "the urgent job has run", 30)
    wait_until(lambda: cluster.states(first) == ["COMPLETED"], "the other one has run again", 40)
    lives = cluster.slurm("sacct", "-DXnP", "-o", "State", "-j", first).split("\n")
    assert lives == ["PREEMPTED", "COMPLETED"]


def test_an_ordinary_user_of_the_account_may_submit(cluster: Cluster) -> None:
    cluster.slurm("sacctmgr", "-i", "add", "user", "nobody", "account=lab")
    as_nobody = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    job = cluster.slurm(*as_nobody, "sbatch", "--parsable", "-D", "/tmp", "--wrap", "id -un")
    wait_until(lambda: cluster.states(job) == ["COMPLETED"], "a job of another user")
    said = Path(f"/tmp/slurm-{job}.out")
    assert (said.read_text(), said.owner()) == ("nobody\n", "nobody")
    said.unlink()


def test_two_side_by_side_one_goes_down(
    cluster: Cluster, second_cluster: Cluster, tmp_path: Path
) -> None:
    mine = cluster.sbatch("true")
    # What the other leaves behind: a process in a session of its own that ignores SIGTERM.
    started = tmp_path / "started"
    stubborn = f"trap '' TERM; setsid sleep 600 & touch {started}; sleep 600"
    other = second_cluster.sbatch(stubborn, "--export=NONE")
    wait_until(started.exists, "the other cluster's job runs")
    wait_until(lambda: cluster.states(mine) == ["COMPLETED"], "a job on the first cluster")
    assert len(processes_of(second_cluster.folder)) > len(DAEMONS)

    # Thus also without its controller, which could have cancelled the job.
    os.kill(second_cluster.pid("slurmctld"), 9)
    for _ in range(2):
        down = devcluster("down", second_cluster.folder)
        assert down.returncode == 0, down.stderr
        assert processes_of(second_cluster.folder) == []
    assert devcluster("status", second_cluster.folder).returncode == 1
    assert devcluster("status", cluster.folder).returncode == 0

    second_cluster.up()
    assert second_cluster.slurm("sacct", "-XnP", "-o", "JobID", "-j", other) == other
