"""What every backend's script has: exports, shell-quoted, then `slurm/worker.sh` verbatim."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from hpoctl.assets import read
from hpoctl.plan import JobArray
from hpoctl.rundir import RunDir

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep


def exports(array: JobArray, sweep: Sweep, run_dir: RunDir) -> dict[str, str]:
    """The variables that `slurm/worker.sh` and the worker read; none of them is a secret."""
    resources = sweep.resources
    return {
        "HPOCTL_RUN_DIR": str(run_dir.path),
        "HPOCTL_PYTHON": resources.python or sys.executable,
        "HPOCTL_TRIALS_PER_TASK": str(array.trials_per_task or ""),
        "HPOCTL_CPUS": str(resources.cpus),
        "HPOCTL_GPUS": str(resources.gpus.count),
        "HPOCTL_WALLTIME_S": str(int(resources.time.total_seconds())),
        "HPOCTL_SETUP": "\n".join(resources.setup),
    }


def body(variables: dict[str, str]) -> str:
    """The exports as bash, and the worker's script after them, unchanged."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    return "\n".join([*lines, "", read("slurm/worker.sh")])
