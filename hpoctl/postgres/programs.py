"""Finds PostgreSQL's programs and runs them. The only place here that starts a process.

No password is ever an argument: what a program must know it reads from stdin or a file.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl.errors import StudyError

_NEEDED = ("initdb", "postgres", "pg_dump")
_DISTRIBUTIONS = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")  # Debian; Red Hat
_TIMEOUT_S = 600.0  # making a cluster writes a thousand files, and the disk may be a slow NFS


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """A folder with the programs of one PostgreSQL."""

    folder: Path
    version: str

    @property
    def major(self) -> str:
        return self.version.partition(".")[0]

    def run(
        self,
        program: str,
        *words: str | Path,
        text: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> str:
        """What a program says; its own complaint as StudyError."""
        return run([str(self.folder / program), *map(str, words)], text=text, environ=environ)

    def launch(self, data: Path, log: Path) -> subprocess.Popen[bytes]:
        """Starts the server; it outlives us and the terminal."""
        log.touch(mode=0o600)
        with log.open("ab") as out:
            return subprocess.Popen(
                [self.folder / "postgres", "-D", data],
                cwd=data,
                env=_environ({}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                umask=0o077,
                start_new_session=True,
            )


def find(environ: Mapping[str, str], major: str | None, root: Path = Path("/")) -> Programs:
    """PostgreSQL's programs; of that major version, as data is read by the one that made it.

    PATH comes first, then the conda environment, this Python's own, and the distribution's newest.
    Raises StudyError.
    """
    found = [
        Programs(folder=folder, version=_version(folder)) for folder in _folders(environ, root)
    ]
    for programs in found:
        if major in (None, programs.major):
            return programs
    if not found:
        raise StudyError(
            "no PostgreSQL server found on PATH, in a conda environment or in"
            f" {root / 'usr/lib/postgresql'}: 'conda install -c conda-forge postgresql' needs no"
            " administrator; they would 'apt-get install postgresql'"
        )
    here = ", ".join(f"{programs.version} in {programs.folder}" for programs in found)
    raise StudyError(
        f"the data was made by PostgreSQL {major}, found is {here}: put {major} on PATH, as by"
        f" 'conda install -c conda-forge postgresql={major}'"
    )


def run(
    argv: Sequence[str], *, text: str | None = None, environ: Mapping[str, str] | None = None
) -> str:
    """What a program says on stdout; StudyError with its complaint where it fails."""
    program = Path(argv[0]).name
    try:
        done = subprocess.run(
            argv,
            input=text or "",
            env=_environ(environ or {}),
            cwd="/",  # not a folder that may vanish
            capture_output=True,
            text=True,
            umask=0o077,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as wrong:
        raise StudyError(f"{program}: not done after {_TIMEOUT_S:.0f} s") from wrong
    except OSError as wrong:
        raise StudyError(f"{argv[0]}: {wrong.strerror}") from wrong
    if done.returncode != 0:
        raise StudyError(f"{program}: {complaint(done.stderr) or done.returncode}")
    return done.stdout


def complaint(text: str) -> str:
    """The line of a program's output that says what is wrong; the last one where none does."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = [line for line in lines if re.search(r"\b(FATAL|PANIC|ERROR|error):", line)]
    return (wrong or lines or [""])[-1]


def _folders(environ: Mapping[str, str], root: Path) -> Iterator[Path]:
    on_path = shutil.which("initdb", path=environ.get("PATH", ""))
    conda = environ.get("CONDA_PREFIX")
    candidates = [
        *([Path(on_path).resolve().parent, Path(on_path).parent] if on_path else []),
        *([Path(conda) / "bin"] if conda else []),
        Path(sys.prefix) / "bin",
    ]
    for pattern in _DISTRIBUTIONS:
        candidates += sorted(root.glob(pattern), key=_newness, reverse=True)
    for folder in dict.fromkeys(candidates):
        if all(os.access(folder / program, os.X_OK) for program in _NEEDED):
            yield folder


def _newness(folder: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", str(folder.parent.name)))


def _version(folder: Path) -> str:
    said = run([str(folder / "postgres"), "--version"])
    number = re.search(r"\d+(\.\d+)?", said)
    return number.group() if number else "unknown"


def _environ(more: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the user's own settings for PostgreSQL; messages in English."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "LC_ALL": "C", **more}
