"""`doctor`: whether a sweep would work here, and what to do where it would not."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpoctl import config, rundir
from hpoctl.backends.slurm import checkup
from hpoctl.errors import StudyError
from hpoctl.finding import Finding, fails, ok, warning
from hpoctl.study import secret_files
from hpoctl.study.connect import connect, named_error
from hpoctl.study.location import locate
from hpoctl.words import StorageKeys

_VARIABLE = "HPOCTL_STORAGE"
_SLOW_MS = 50
_LITTLE_GB = 1.0


def examine(sweep_file: Path | None, *, job: bool) -> tuple[Finding, ...]:
    """All that was found; with `job`, also by a tiny job on a compute node.

    With a sweep file, also what that sweep needs; the job is as its jobs are. Raises ConfigError.
    """
    sweep = config.load(sweep_file) if sweep_file is not None else None
    here = [*checkup.look_over(), *_folders(), *_password_files(), *_storage()]
    if sweep is not None:
        here += checkup.look_at(sweep)
    return (*here, *(checkup.try_a_job(Path.cwd(), sweep) if job else ()))


def _folders() -> Iterator[Finding]:
    for what, folder in (
        ("run folder", Path.cwd()),
        ("list of runs", rundir.state_folder(os.environ)),
    ):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as probe:
                probe.write(b"x")
        except OSError as wrong:
            way = "work in a folder of your own" if what == "run folder" else "set XDG_STATE_HOME"
            yield fails(what, f"{folder} cannot be written: {wrong.strerror}", way)
            continue
        free_gb = shutil.disk_usage(folder).free / 1e9
        if free_gb < _LITTLE_GB:
            yield warning(what, f"{folder} has {free_gb:.2g} GB left", "delete, or go elsewhere")
        else:
            yield ok(what, f"{folder} can be written, {free_gb:,.0f} GB left")


def _password_files() -> Iterator[Finding]:
    looks: tuple[tuple[str, Callable[[], object]], ...] = (
        (".pgpass", lambda: secret_files.check_pgpass(None, os.environ)),
        (".my.cnf", secret_files.read_my_cnf),
    )
    for name, look in looks:
        if not (Path.home() / name).is_file():
            continue
        try:
            look()
        except StudyError as wrong:
            yield fails(f"~/{name}", str(wrong), f"chmod 600 ~/{name}")
        else:
            yield ok(f"~/{name}", "can be read by you alone")


def _storage() -> Iterator[Finding]:
    """The database that the usual variable names; without it a sweep uses a journal file."""
    if not os.environ.get(_VARIABLE):
        yield ok("storage", f"{_VARIABLE} is not set: a journal file in the run directory")
        return
    keys = StorageKeys(url_env=_VARIABLE)
    try:
        location = locate(keys, workdir=Path.cwd(), journal=Path(), environ=os.environ)
    except StudyError as wrong:
        yield fails("storage", str(wrong), f"mend {_VARIABLE}, or 'hpoctl db up'")
        return
    try:
        begun = time.monotonic()
        connection = connect(location)
        cursor = connection.cursor()
        connected = time.monotonic()
        cursor.execute("select 1", ())
        cursor.fetchall()
        answered = time.monotonic()
        connection.close()
    except Exception as wrong:  # whatever a driver raises, in words without a password
        yield fails("storage", str(named_error(location, wrong)), f"mend {_VARIABLE}")
        return
    trip_ms = (answered - connected) * 1000
    connect_ms = (connected - begun) * 1000
    text = f"{location} answers: {connect_ms:.0f} ms to connect, {trip_ms:.1f} ms a trip"
    if trip_ms > _SLOW_MS:
        yield warning("storage", text, "use a database nearer to the cluster")
    else:
        yield ok("storage", text)
