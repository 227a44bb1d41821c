"""Workers in a container on a real Slurm; of Apptainer there is a stand-in only."""

from __future__ import annotations

import sys
from typing import Any

from apptainer import APPTAINER
from servers import wait_for
from workplace import is_alive

from integration.conftest import MakeSweep, Sweep


def in_container(make_sweep: MakeSweep, storage: str, **keys: Any) -> Sweep:
    """A sweep whose setup brings the stand-in, as `module load apptainer` would."""
    sweep = make_sweep(storage, **keys)
    program = sweep.hpoctl.folder / "module" / "apptainer"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    own: Any = sweep.tree["resources"]
    container = {
        "setup": [f"export PATH={program.parent}:$PATH"],
        "container": {"image": "train.sif", "args": ["--nv"]},
        "python": sys.executable,
    }
    sweep.rewrite(resources={**own, **container})
    return sweep


def test_a_worker_in_a_container_feeds_in_the_next_arrays_and_its_password_is_no_argument(
    make_sweep: MakeSweep,
) -> None:
    sweep = in_container(
        make_sweep,
        "postgresql",
        mode="batch",
        sampler="random",
        budget={"trials": 6},
        resources={"time": "5m", "account": "boxed"},
    )
    assert sweep.slurm is not None
    sweep.slurm.add_account("boxed", of_user=["MaxSubmitJobs=2"])
    submitted = sweep.ask_json("submit", "sweep.yaml")["arrays"]
    assert sum(array["tasks"] for array in submitted) == 2
    sweep.await_finished(6)
    sweep.assert_each_ran_once(6)
    words = (sweep.hpoctl.folder / "apptainer-args").read_text().splitlines()
    assert {str(sweep.run_dir.path), str(sweep.hpoctl.folder), "--nv"} < set(words)
    password = sweep.location.url.partition("@")[0].rpartition(":")[2]
    assert password
    cmdline = (sweep.hpoctl.folder / "apptainer-cmdline").read_text()
    assert password not in cmdline
    assert "boxed" not in cmdline


def test_the_trial_of_a_task_that_ends_in_a_container_is_lost_by_slurms_word(
    make_sweep: MakeSweep,
) -> None:
    sweep = in_container(
        make_sweep,
        "postgresql",
        mode="async",
        workers=2,
        lease="12s",
        budget={"trials": 3},
        objective_args={"seconds": 14, "steps": 1},
    )
    (array,) = sweep.submit()

    def both_work() -> bool:
        return sum(worker.trial is not None for worker in sweep.summary().workers) == 2

    wait_for(both_work, 60, "both work")
    pids = [worker.pid for worker in sweep.summary().workers]
    assert sweep.slurm is not None
    sweep.slurm.ask("scancel", "--signal=KILL", f"{array}_1")
    sweep.await_finished(3)
    log = (sweep.run_dir.logs / f"{array}_0.log").read_text()
    assert "of workers that are gone wait again" in log
    assert "Slurm does not answer" not in log
    wait_for(lambda: not any(map(is_alive, pids)), 20, "no worker is left")
