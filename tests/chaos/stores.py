"""The places that a study lives in while it is disturbed, and how each is disturbed."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psycopg2
import pymysql
from servers import MariaDB, PostgreSQL

from chaos import faults
from chaos.faults import Fault, Kind
from chaos.proxy import CuttingProxy
from hpoctl.study.location import Location, parse_url

STORAGES = ("postgresql", "mariadb", "sqlite", "journal")
_VARIABLE = "HPOCTL_STORAGE"


class Place(Protocol):
    """Where a study lives: how workers reach it, and what may happen to it."""

    @property
    def kinds(self) -> Mapping[Kind, int]: ...
    @property
    def sweep_line(self) -> str: ...
    @property
    def environ(self) -> dict[str, str]: ...
    @property
    def location(self) -> Location: ...
    def disturb(self, fault: Fault) -> None: ...


@dataclass(slots=True, kw_only=True)
class OnServer:
    """A database; workers reach it through a proxy, `location` leads straight to it."""

    server: PostgreSQL | MariaDB
    url: str
    proxy: CuttingProxy
    kinds: Mapping[Kind, int] = field(default_factory=lambda: faults.ON_SERVER)
    sweep_line: str = f"storage: {{url_env: {_VARIABLE}}}\n"

    @property
    def environ(self) -> dict[str, str]:
        through = self.url.replace(f":{self.server.port}/", f":{self.proxy.port}/")
        return {_VARIABLE: through}

    @property
    def location(self) -> Location:
        return parse_url(self.url, _VARIABLE)

    def disturb(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.CUT:
                self.proxy.cut()
            case Kind.CUT_IN_ANSWER:
                self.proxy.cut_in_answer(fault.at_byte)
            case Kind.END_SESSIONS:
                _end_sessions(self.server, self.url)
            case Kind.OUTAGE:
                self.proxy.refuse()
                time.sleep(fault.lasts_s)
                self.proxy.let_through()
            case _:
                self.server.halt(crash=fault.kind is Kind.CRASH)
                time.sleep(fault.lasts_s)
                self.server.resume()


def _end_sessions(server: PostgreSQL | MariaDB, url: str) -> None:
    """As an administrator ends every client's session."""
    if isinstance(server, PostgreSQL):
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            cursor.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where pid <> pg_backend_pid() and backend_type = 'client backend'"
            )
        connection.close()
        return
    own = pymysql.connect(
        host="127.0.0.1", port=server.port, user="hpo", password=server.password, autocommit=True
    )
    with own, own.cursor() as cursor:
        cursor.execute(
            "select id from information_schema.processlist"
            " where user = 'hpo' and id <> connection_id()"
        )
        for (number,) in cursor.fetchall():
            with suppress(pymysql.err.OperationalError):  # it has left meanwhile
                cursor.execute(f"kill {int(number)}")


@dataclass(slots=True, kw_only=True)
class OnFile:
    """A journal or an SQLite file, on a small disk of its own where we may mount one."""

    key: str
    disk: Path
    environ: dict[str, str] = field(default_factory=dict)
    kinds: Mapping[Kind, int] = field(default_factory=lambda: faults.ON_FILE)

    @property
    def path(self) -> Path:
        return self.disk / f"study.{self.key}"

    @property
    def sweep_line(self) -> str:
        return f"storage: {{{self.key}: {self.path}}}\n"

    @property
    def location(self) -> Location:
        from hpoctl.study.location import Kind as Storage

        return Location(kind=Storage(self.key), url=str(self.path))

    def disturb(self, fault: Fault) -> None:
        assert fault.kind is Kind.DISK_FULL
        ballast = self.disk / "ballast"
        end = time.monotonic() + fault.lasts_s
        while time.monotonic() < end:  # what others give back is taken too
            with ballast.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(65_536))
            with ballast.open("ab", buffering=0) as file, suppress(OSError):
                file.write(bytes(4_096))
            time.sleep(0.02)
        ballast.unlink()


@contextmanager
def opened(storage: str) -> Iterator[Place]:
    """A new, empty place of this kind; nothing of it is left afterwards."""
    with ExitStack() as stack:
        if storage in ("postgresql", "mariadb"):
            server = PostgreSQL() if storage == "postgresql" else MariaDB()
            stack.callback(server.stop)
            server.start()
            proxy = stack.enter_context(CuttingProxy(server.port))
            yield OnServer(server=server, url=server.create_database(), proxy=proxy)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            disk = folder / "disk"
            disk.mkdir()
            _mount(folder / "disk.img", disk)
            stack.callback(_run, "umount", "--lazy", str(disk))
            yield OnFile(key=storage, disk=disk)


def _mount(image: Path, disk: Path) -> None:
    """A disk of 32 MiB that takes its time to write, or, without loop devices, one in memory."""
    try:
        with image.open("wb") as file:
            file.truncate(32 << 20)
        _run("mkfs.ext4", "-q", "-m", "0", str(image))
        _run("mount", "-o", "loop", str(image), str(disk))
    except (OSError, subprocess.CalledProcessError):
        _run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=30)
