"""`doctor`: whether a sweep would work here, and what to do where it would not."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl import config, rundir
from hpoctl.backends.slurm import checkup
from hpoctl.errors import StudyError
from hpoctl.finding import Finding, fails, ok, warning
from hpoctl.study import secret_files
from hpoctl.study.connect import connect, named_error
from hpoctl.study.location import Location, locate
from hpoctl.words import StorageKeys

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep

_VARIABLE = "HPOCTL_STORAGE"
_SLOW_MS = 50
_LITTLE_GB = 1.0
_LARGE = ("torch", "transformers")


def examine(sweep_file: Path | None, *, job: bool) -> tuple[Finding, ...]:
    """All that was found; with `job`, also by a tiny job on a compute node.

    With a sweep file, also what that sweep needs; the job is as its jobs are. Raises ConfigError.
    """
    sweep = config.load(sweep_file) if sweep_file is not None else None
    keys = _keys(sweep)
    here = [*checkup.look_over(), *_folders(), *_password_files(), *_storage(keys)]
    if sweep is None or (sweep.resources.python is None and sweep.resources.container is None):
        here += _compiled()
    if sweep is not None:
        here += checkup.look_at(sweep)
    there = checkup.try_a_job(Path.cwd(), sweep, _asks(keys)) if job else ()
    return (*here, *there)


def _keys(sweep: Sweep | None) -> StorageKeys:
    """What the sweep says of its storage; where it says nothing, what the usual variable does."""
    if sweep is not None and (given := sweep.storage.model_dump(exclude_none=True)):
        return StorageKeys(**given)
    return StorageKeys(url_env=_VARIABLE if os.environ.get(_VARIABLE) else None)


def _asks(keys: StorageKeys) -> str:
    """Arguments for a Python on a compute node that looks for the database, if there is one."""
    if not (keys.url or keys.url_env or keys.url_file):
        return ""
    program = "import sys; from hpoctl.control.doctor import connect_there as c; c(sys.argv[1])"
    return shlex.join(["-c", program, json.dumps(asdict(keys))])


def connect_there(keys: str) -> None:
    """Connects to the database that these keys name, as JSON; ends with why it cannot."""
    try:
        location = _located(StorageKeys(**json.loads(keys)))
    except StudyError as wrong:
        raise SystemExit(str(wrong)) from None
    try:
        connect(location).close()
    except Exception as wrong:  # whatever a driver raises, in words without a password
        raise SystemExit(str(named_error(location, wrong))) from None


def _located(keys: StorageKeys) -> Location:
    return locate(keys, workdir=Path.cwd(), journal=Path("journal"), environ=os.environ)


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


def _compiled() -> Iterator[Finding]:
    """Whether each start of a worker compiles large packages anew, as nothing keeps the result."""
    sources = [spec.origin for name in _LARGE if (spec := find_spec(name)) and spec.origin]
    for source in sources:
        name, kept = Path(source).parent.name, Path(cache_from_source(source))
        folder = next(parent for parent in kept.parents if parent.exists())
        anew = "each start of a worker compiles it anew"
        if kept.exists():
            continue
        if sys.dont_write_bytecode:
            text = f"{name} is not, and PYTHONDONTWRITEBYTECODE keeps it so: {anew}"
            yield warning("compiled", text, "unset PYTHONDONTWRITEBYTECODE")
            return
        if not os.access(folder, os.W_OK):
            text = f"{name} is not, and {folder} cannot be written: {anew}"
            yield warning("compiled", text, "export PYTHONPYCACHEPREFIX=~/.cache/pycache")
            return
    if sources:
        yield ok("compiled", f"{' and '.join(_LARGE)} are compiled once, if they are not yet")


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


def _storage(keys: StorageKeys) -> Iterator[Finding]:
    """The database that is named; without one a sweep uses a file."""
    if not _asks(keys):
        file = keys.journal or keys.sqlite
        text = file or f"{_VARIABLE} is not set: a journal file in the run directory"
        yield ok("storage", text)
        return
    named = keys.url_env or keys.url_file or "storage.url"
    try:
        location = _located(keys)
    except StudyError as wrong:
        yield fails("storage", str(wrong), f"mend {named}, or 'hpoctl db up'")
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
        yield fails("storage", str(named_error(location, wrong)), f"mend {named}")
        return
    trip_ms = (answered - connected) * 1000
    connect_ms = (connected - begun) * 1000
    text = f"{location} answers: {connect_ms:.0f} ms to connect, {trip_ms:.1f} ms a trip"
    if trip_ms > _SLOW_MS:
        yield warning("storage", text, "use a database nearer to the cluster")
    else:
        yield ok("storage", text)
