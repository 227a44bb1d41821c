"""Two ordinary users of one account: each has their runs to themselves."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from servers import Slurm, absent, wait_for

import hpoctl

SWEEP = {
    "study": "theirs",
    "objective": "hpoctl.objectives.toy",
    "objective_args": {"seconds": 30, "steps": 1},
    "search_space": {"x": {"type": "uniform", "min": 0, "max": 1}},
    "sampler": "random",
    "mode": "async",
    "workers": 1,
    "budget": {"trials": 2},
    "resources": {"time": "5m"},
}


_IMPORTS = (str(Path(hpoctl.__file__).parents[1]), sysconfig.get_path("purelib"))


def python_for_all() -> str:
    """A Python of our version that every user can run; it takes our packages by PYTHONPATH."""
    own = Path(sys.executable).resolve()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (own, Path(f"/usr/bin/python{version}")):
        folders = (*python.parents, *(parent for path in _IMPORTS for parent in Path(path).parents))
        if python.exists() and all(folder.stat().st_mode & 0o001 for folder in folders):
            return str(python)
    absent(f"no Python {version} that other users can run")
    raise AssertionError


@dataclass(frozen=True, slots=True)
class User:
    """An account of this machine, with a folder of its own."""

    name: str
    folder: Path
    slurm: Slurm
    python: str

    def __call__(self, *argv: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs a program as this user, without any privilege."""
        known = pwd.getpwnam(self.name)
        prefix = ["setpriv", f"--reuid={known.pw_uid}", f"--regid={known.pw_gid}", "--clear-groups"]
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(_IMPORTS),
            "HOME": str(self.folder),
            **self.slurm.env,
        }
        done = subprocess.run(
            [*prefix, *argv], cwd=self.folder, env=env, text=True, capture_output=True, timeout=90
        )
        assert done.returncode == code, f"{argv}: {done.returncode} {done.stdout} {done.stderr}"
        return done

    def hpoctl(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self(self.python, "-m", "hpoctl", *words, code=code)


@pytest.fixture
def users(slurm: Slurm) -> Iterator[tuple[User, User]]:
    """Two users of the account `lab`, whose umask lets others read."""
    made: list[User] = []
    python = python_for_all()
    try:
        for name in ("games", "news"):
            folder = Path(tempfile.mkdtemp(prefix="hpu", dir="/tmp"))
            shutil.chown(folder, name)
            folder.chmod(0o755)
            made.append(User(name, folder, slurm, python))
            slurm.ask("sacctmgr", "-i", "add", "user", name, "account=lab", "defaultaccount=lab")
        yield made[0], made[1]
    finally:
        for user in made:
            slurm.ask("scancel", "-u", user.name)
            _await_no_jobs(user)
            slurm.ask("sacctmgr", "-i", "delete", "user", user.name)
            shutil.rmtree(user.folder)


def _await_no_jobs(user: User) -> None:
    wait_for(lambda: not user.slurm.ask("squeue", "-hu", user.name), 60, "no job is left")


def test_a_run_is_its_owners_alone(users: tuple[User, User], slurm: Slurm) -> None:
    owner, other = users
    (owner.folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    submitted = json.loads(owner.hpoctl("submit", "sweep.yaml", "--json").stdout)
    run_dir, (array,) = Path(submitted["run_dir"]), [a["id"] for a in submitted["arrays"]]

    def runs() -> bool:
        shown = json.loads(owner.hpoctl("status", "theirs", "--json").stdout)
        return any(worker["trial"] is not None for worker in shown["workers"])

    wait_for(runs, 90, "a trial runs as an ordinary user")
    assert stat.S_IMODE(run_dir.stat().st_mode) == 0o700
    for name in ("sweep.yaml", "plan.json", "study.journal", "workers.sh", f"logs/{array}_0.log"):
        assert (run_dir / name).exists()
        other("cat", str(run_dir / name), code=1)
    for words in (
        ("status", str(run_dir)),
        ("status", str(run_dir), "--repair"),
        ("cancel", str(run_dir)),
        ("workers", "add", str(run_dir), "-n", "1"),
        ("workers", "drain", str(run_dir)),
        ("logs", str(run_dir), "0"),
    ):
        refused = other.hpoctl(*words, code=4)
        assert refused.stderr == (
            f"hpoctl: {run_dir} is not open to you: ask games for 'chmod -R g+rX {run_dir}'\n"
        )
    assert slurm.ask("squeue", "-h", f"-j{array}") != ""


def test_a_run_that_is_shared_can_be_read_and_not_changed(
    users: tuple[User, User], slurm: Slurm
) -> None:
    owner, other = users
    (owner.folder / "sweep.yaml").write_text(json.dumps(SWEEP))
    submitted = json.loads(owner.hpoctl("submit", "sweep.yaml", "--json").stdout)
    run_dir, (array,) = submitted["run_dir"], [a["id"] for a in submitted["arrays"]]
    owner("chmod", "-R", "a+rX", run_dir)
    shown = json.loads(other.hpoctl("status", run_dir, "--json").stdout)
    assert sum(shown["counts"].values()) == 2
    for words in (
        ("cancel", run_dir),
        ("workers", "add", run_dir, "-n", "1"),
        ("workers", "drain", run_dir),
        ("status", run_dir, "--repair"),
    ):
        refused = other.hpoctl(*words, code=4)
        assert refused.stderr == (
            f"hpoctl: {run_dir} is a run of user games, who alone can change it:"
            " ask games, or submit a study of your own\n"
        )
    other("scancel", array, code=210)
    assert slurm.ask("squeue", "-h", f"-j{array}") != ""
    owner.hpoctl("cancel", "theirs")


def test_limits_are_read_and_explained_without_any_privilege(
    users: tuple[User, User], slurm: Slurm
) -> None:
    user, _ = users
    where = ("where", "name=games", "account=lab")
    slurm.ask("sacctmgr", "-i", "modify", "user", *where, "set", "MaxWall=30", "MaxJobs=1")
    sweep = {**SWEEP, "workers": 2}
    (user.folder / "sweep.yaml").write_text(json.dumps({**sweep, "resources": {"time": "2h"}}))
    refused = user.hpoctl("check", "sweep.yaml", code=2).stderr
    assert refused == (
        "hpoctl: resources.time is 2h, you in account lab may have 30m (MaxWall): use time: 30m\n"
    )
    (user.folder / "sweep.yaml").write_text(json.dumps(sweep))
    user.hpoctl("submit", "sweep.yaml")

    def explained() -> bool:
        delays = json.loads(user.hpoctl("why", "--json").stdout)["delays"]
        return any(
            "you in account lab may run 1 tasks at once" in delay["text"] for delay in delays
        )

    wait_for(explained, 60, user.hpoctl("why").stdout)
    user.hpoctl("cancel", "theirs")
