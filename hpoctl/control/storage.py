"""What a storage cannot do, said before anything is submitted; SQLite is for one machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hpoctl import config
from hpoctl.study.location import Kind, Location
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName

JOURNAL_WORKERS = 32  # of measurement and limits: docs/how-to/storage.md
JOURNAL_TRIALS = 10_000

_MOUNTS = Path("/proc/self/mounts")
_SHARED = re.compile(
    "9p|afs|beegfs|ceph|cifs|fuse[.](glusterfs|sshfs)|gpfs|lustre|nfs4?|orangefs|panfs|smb3|wekafs"
)


def notes(sweep: Sweep, location: Location, workers: int) -> tuple[str, ...]:
    """The limits of an embedded storage in one line; a database has none to tell."""
    match location.kind:
        case Kind.JOURNAL:
            return (_journal_note(sweep, workers),)
        case Kind.SQLITE:
            return (_sqlite_note(location),)
        case _:
            return ()


def refuse_several_machines(
    sweep: Sweep, location: Location, workers: int, file: Path, overrides: Sequence[str]
) -> None:
    """Raises ConfigError, with its line, where several machines would open one SQLite file."""
    if location.kind is not Kind.SQLITE or sweep.backend is not BackendName.SLURM:
        return
    node = _only_node(sweep)
    kind = file_system(location.path)
    if node is None and workers > 1:
        problem = f"SQLite is for one machine, and {workers} workers may run on several nodes"
        way = ", or resources.sbatch: [--nodelist=NODE] for one node"
    elif _SHARED.fullmatch(kind) and node not in (os.uname().nodename, "localhost"):
        problem = f"SQLite is for one machine, and on {kind} a node and this machine would share it"
        way = ""
    else:
        return
    given = next(iter(sweep.storage.model_dump(exclude_none=True)))
    message = (
        f"{problem}: leave 'storage' out (a journal file), use a database ('hpoctl db up'){way}"
    )
    raise config.complain(file, overrides, f"storage.{given}", message)


def file_system(path: Path, mounts: Path = _MOUNTS) -> str:
    """The kernel's word for what a file is or would be on, such as `nfs4`; '' if unknown."""
    place = Path(os.path.realpath(path))
    found, kind = Path(), ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        _, folder, name, *_ = line.split(" ")
        mounted = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), folder))
        if place.is_relative_to(mounted) and len(mounted.parts) >= len(found.parts):
            found, kind = mounted, name
    return kind


def _journal_note(sweep: Sweep, workers: int) -> str:
    trials = sweep.trials
    limit = f"{JOURNAL_WORKERS} workers and {JOURNAL_TRIALS:,} trials"
    if workers > JOURNAL_WORKERS or trials > JOURNAL_TRIALS:
        return (
            f"storage: a journal file is good for about {limit}, not for {workers} and"
            f" {trials:,}: use a database"
        )
    return f"storage: a journal file, on a disk that all nodes share; good for about {limit}"


def _sqlite_note(location: Location) -> str:
    kind = file_system(location.path)
    if _SHARED.fullmatch(kind):
        return (
            f"storage: SQLite may lose its locks on {kind}: put {location.path.name} on a disk of"
            " this machine, or leave 'storage' out (a journal file)"
        )
    return "storage: SQLite, for workers on one machine only"


def _only_node(sweep: Sweep) -> str | None:
    """The one node that the sweep's own flags pin every worker to, if they do."""
    nodes = {
        re.split(r"[= ]+", flag, maxsplit=1)[-1]
        for flag in sweep.resources.sbatch
        if re.match(r"--nodelist[= ]", flag)
    }
    if len(nodes) != 1:
        return None
    node = nodes.pop()
    return node if re.fullmatch(r"[\w.-]+", node) else None
