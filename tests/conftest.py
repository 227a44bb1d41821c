"""Fixtures for all tests: real servers, each started when the first test asks for it.

They end with the test run, also when it is interrupted: SIGTERM is made an interrupt like Ctrl-C.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby, zip_longest
from pathlib import Path
from types import FrameType
from typing import TypeVar

import pytest
from servers import MariaDB, PostgreSQL, Slurm, absent

Running = TypeVar("Running", PostgreSQL, MariaDB, Slurm)


def pytest_configure(config: pytest.Config) -> None:
    """A terminated run tears its fixtures down."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, interrupt)


# Their tests wait for Slurm, for leases, for walltimes, and hardly compute.
_WAITING = {"integration", "chaos", "slurm"}
# The longest of those that compute; one of them as the last would leave a core idle.
_LONG = {"test_templates.py", "test_benchmarks.py", "test_tune.py", "test_samplers.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file that waits, then two that compute, and so on: cores are busy, and none too busy."""
    files = {file: [*tests] for file, tests in groupby(items, lambda item: item.path)}
    here = Path(__file__).parent
    waiting = [file for file in files if file.relative_to(here).parts[0] in _WAITING]
    computing = sorted(files.keys() - waiting, key=lambda file: (file.name not in _LONG, file))
    turns = chain.from_iterable(zip_longest(waiting, computing[::2], computing[1::2]))
    items[:] = [item for file in turns if file is not None for item in files[file]]


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL server, one for all tests."""
    yield from _running(PostgreSQL())


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server, one for all tests."""
    yield from _running(MariaDB())


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A Slurm cluster of two nodes, one for all tests."""
    yield from _running(Slurm())


def _running(server: Running) -> Iterator[Running]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """A new, empty PostgreSQL database."""
    return postgresql.create_database()


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> str:
    """A new, empty MariaDB database."""
    return mariadb.create_database()


@pytest.fixture(params=["postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new, empty database on each kind of server in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@dataclass(slots=True)
class Hpoctl:
    """Runs the command line in a folder, as a user without any history would."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    def __call__(
        self, *args: str | Path, code: int = 0, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Runs `hpoctl ARGS` and checks its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "hpoctl", *map(str, args)],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = f"hpoctl {' '.join(map(str, args))}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == code, said
        return done

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of a command."""
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("HPOCTL_", "SLURM_", "SBATCH_"))
        }
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / ".state")}
        return {**clean, **home, **self.env}


@pytest.fixture
def hpoctl(tmp_path: Path) -> Hpoctl:
    """The command line, in a folder of the test's own."""
    return Hpoctl(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        absent(f"mounting a small disk needs root: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)
