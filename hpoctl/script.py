"""What every backend's script has: exports, shell-quoted, then `slurm/worker.sh` verbatim.

Above that, where the sweep names a container, stands `slurm/container.sh`, verbatim too.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.assets import read
from hpoctl.errors import ConfigError
from hpoctl.plan import JobArray
from hpoctl.rundir import RunDir

if TYPE_CHECKING:
    from hpoctl.sweep import Container, Storage, Sweep

_OF_THE_JOB = (  # what a worker needs of its environment, besides HPOCTL_*
    *("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "TMPDIR"),
    *("PGPASSFILE", "PGSSLMODE", "PGSSLROOTCERT", "PGSSLCERT", "PGSSLKEY", "PGSERVICEFILE"),
)


def exports(
    array: JobArray, sweep: Sweep, run_dir: RunDir, workdir: Path | None = None
) -> dict[str, str]:
    """The variables that `slurm/worker.sh` and the worker read; none of them is a secret.

    A container sees the run directory and `workdir`, in which the sweep was submitted.
    """
    resources = sweep.resources
    inside = "python3" if resources.container else sys.executable
    variables = {
        "HPOCTL_RUN_DIR": str(run_dir.path),
        "HPOCTL_PYTHON": resources.python or inside,
        "HPOCTL_TRIALS_PER_TASK": str(array.trials_per_task or ""),
        "HPOCTL_CPUS": str(resources.cpus),
        "HPOCTL_GPUS": str(resources.gpus.count),
        "HPOCTL_WALLTIME_S": str(int(resources.time.total_seconds())),
        "HPOCTL_SETUP": "\n".join(resources.setup),
    }
    if resources.container is None:
        return variables
    home = workdir or Path.cwd()
    folders = (run_dir.path, home, *_of_storage(sweep.storage, home))
    secret = sweep.storage.url_env
    return variables | {
        "HPOCTL_CONTAINER": "\n".join(exec_words(resources.container, home, folders)),
        "HPOCTL_PASSED": " ".join([*_OF_THE_JOB, *([secret] if secret else [])]),
    }


def body(variables: dict[str, str]) -> str:
    """The exports as bash, and the worker's script after them, unchanged."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    inside = read("slurm/container.sh") if "HPOCTL_CONTAINER" in variables else ""
    return "\n".join([*lines, "", inside + read("slurm/worker.sh")])


def exec_words(container: Container, workdir: Path, folders: Sequence[Path]) -> list[str]:
    """Flags and image for `apptainer exec`. Raises ConfigError for what it cannot bind."""
    for folder in folders:
        if set(str(folder)) & set(":,\n"):
            way = "work in a folder without ':' and ','"
            raise ConfigError(f"resources.container: {folder} cannot be bound into it: {way}")
    binds = [*dict.fromkeys(map(str, folders)), *container.binds]
    flags = [word for bind in binds for word in ("--bind", bind)]
    file = image_file(container, workdir)
    return [*container.args, *flags, str(file or container.image)]


def image_file(container: Container, workdir: Path) -> Path | None:
    """The image as a file or a folder; None where it is a URL."""
    return None if "://" in container.image else workdir / Path(container.image).expanduser()


def _of_storage(storage: Storage, workdir: Path) -> list[Path]:
    """The folders of a study that is a file, and of a file that names its database."""
    named = (storage.sqlite, storage.journal, storage.url_file)
    return [(workdir / Path(file).expanduser()).parent for file in named if file]
