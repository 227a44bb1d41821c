"""Real servers for the tests: each in a short folder of its own, on free ports, ended by its pid.

A server that was not installed skips its tests, with the package that brings it; where CI=true it
fails them, as a skip would hide there that nothing was tested.
"""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NoReturn, Protocol
from urllib.parse import quote

import psycopg2
import pymysql
import pytest

DEVCLUSTER = Path(__file__).parents[1] / "slurm" / "devcluster" / "devcluster"
_SLURM_PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
_SBIN = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def absent(reason: str) -> NoReturn:
    """Skips the test, and fails it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_for(condition: Callable[[], bool], deadline_s: float, what: str = "the condition") -> None:
    """Returns as soon as `condition` holds; fails the test where it does not in time.

    A condition that runs a command is asked less often: it would slow down what it waits for.
    """
    end = time.monotonic() + deadline_s
    while True:
        asked = time.monotonic()
        if condition():
            return
        answered = time.monotonic()
        if answered > end:
            pytest.fail(f"not within {deadline_s:g} s: {what}")
        time.sleep(max(0.05, 2 * (answered - asked)))


class Server(Protocol):
    """A database server that gives each test a database of its own."""

    @property
    def password(self) -> str: ...
    def create_database(self) -> str: ...
    def url(self, database: str, *, password: str | None = None) -> str: ...


@dataclass(slots=True, kw_only=True)
class _Database(ABC):
    """What both servers have in common: a password, a folder, a process that may be halted."""

    _DIALECT: ClassVar[str]
    _SIGNALS: ClassVar[tuple[signal.Signals, signal.Signals]]  # for an orderly end, for a crash

    # Characters that a URL must write as %XX: a password has them sooner or later.
    password: str = field(default_factory=lambda: f"p@ss/w%rd:{secrets.token_hex(4)}")
    port: int = 0
    _folder: Path = field(default_factory=lambda: _short_folder("hdb"))
    _process: subprocess.Popen[bytes] | None = None
    _names: itertools.count[int] = field(default_factory=itertools.count)

    def halt(self, *, crash: bool = False) -> None:
        """Ends the server, which keeps its files; `crash` leaves them as a power cut would."""
        _stop(self._process, self._SIGNALS[crash])

    def resume(self) -> None:
        """Starts the server again and waits until it answers."""
        assert self._process is not None and isinstance(self._process.args, list)
        self._process = _start(self._process.args, self._folder)
        _answers(self._process, lambda: self._execute("select 1"), self._folder)

    def stop(self) -> None:
        """Ends the server and removes its files."""
        _stop(self._process, self._SIGNALS[False])
        shutil.rmtree(self._folder, ignore_errors=True)

    def create_database(self) -> str:
        """A new, empty database, as a URL."""
        name = f"test_{next(self._names)}"
        self._execute(f"create database {name}")
        return self.url(name)

    def url(self, database: str, *, password: str | None = None) -> str:
        """A database of this server as a URL."""
        return _url(self._DIALECT, password or self.password, self.port, database)

    @abstractmethod
    def _execute(self, statement: str) -> None:
        """Runs one statement as the user of the tests."""


@dataclass(slots=True, kw_only=True)
class PostgreSQL(_Database):
    """A PostgreSQL that writes to disk what it commits, open to one user with a password.

    `tls` is a folder with server.crt and server.key: then it answers encrypted connections too.
    """

    _DIALECT: ClassVar[str] = "postgresql"
    _SIGNALS: ClassVar = (signal.SIGINT, signal.SIGQUIT)  # its fast shutdown waits for no client

    tls: Path | None = None
    max_connections: int = 200

    def start(self) -> None:
        """Makes the cluster of databases and waits until it answers."""
        bin_ = postgresql_bin()
        if bin_ is None:
            absent("no PostgreSQL server: apt-get install postgresql")
        data, secret = self._folder / "data", self._folder / "password"
        secret.write_text(self.password)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            for path in (self._folder, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        options = ["--username=hpo", f"--pwfile={secret}", "--auth=scram-sha-256", "--no-sync"]
        _run(
            [*_as_postgres(), f"{bin_}/initdb", "-D", f"{data}", "--encoding=UTF8", *options],
            cwd=self._folder,
        )
        self.port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "max_connections": str(self.max_connections),
        }
        if self.tls is not None:
            settings |= {"ssl": "on", **_own_certificate(self.tls, data, "postgres")}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = _start(
            [*_as_postgres("--pdeathsig=INT"), f"{bin_}/postgres", "-D", str(data), *flags],
            self._folder,
        )
        _answers(self._process, lambda: self._execute("select 1"), self._folder)

    def _execute(self, statement: str) -> None:
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user="hpo",
            password=self.password,
            dbname="postgres",
            connect_timeout=10,
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


@dataclass(slots=True, kw_only=True)
class MariaDB(_Database):
    """A MariaDB that listens on 127.0.0.1, open to one user with a password.

    `durable` writes to disk what it commits, as a server in earnest does. `tls` is a folder with
    server.crt and server.key.
    """

    _DIALECT: ClassVar[str] = "mysql"
    _SIGNALS: ClassVar = (signal.SIGTERM, signal.SIGKILL)

    durable: bool = False
    tls: Path | None = None

    def start(self) -> None:
        """Makes the data folder and waits until the server answers."""
        programs = [shutil.which(name, path=_SBIN) for name in ("mariadbd", "mariadb-install-db")]
        mariadbd, install_db = programs
        if mariadbd is None or install_db is None:
            absent("no MariaDB server: apt-get install mariadb-server")
            return
        options = [
            "--no-defaults",
            f"--datadir={self._folder / 'data'}",
            f"--tmpdir={self._folder}",  # it removes what it finds of its kind, others' too
            "--innodb-log-file-size=16M",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=2",  # making its tables takes seconds otherwise
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]
        _run([install_db, *options, "--skip-test-db"], cwd=self._folder)
        init = self._folder / "init.sql"
        init.write_text(
            f"create user 'hpo'@'%' identified by '{self.password}';\n"
            "grant all on *.* to 'hpo'@'%';\n"
        )
        init.chmod(0o600)
        self.port = free_port()
        self._process = _start(
            [
                *_bound_to_us("--pdeathsig=TERM"),
                mariadbd,
                *options,
                "--bind-address=127.0.0.1",
                f"--port={self.port}",
                f"--socket={self._folder / 'sock'}",
                "--skip-name-resolve",
                f"--init-file={init}",
                f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",
                *([f"--ssl-cert={self.tls}/server.crt"] if self.tls else []),
                *([f"--ssl-key={self.tls}/server.key"] if self.tls else []),
            ],
            self._folder,
        )
        _answers(self._process, lambda: self._execute("select 1"), self._folder)

    def _execute(self, statement: str) -> None:
        connection = pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="hpo",
            password=self.password,
            connect_timeout=10,
        )
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Task:
    """An array task in Slurm's accounting; times are seconds since 1970, or None."""

    job: str
    name: str
    index: int
    state: str
    start: float | None
    end: float | None


def require_slurm() -> None:
    """Skips the test where no development cluster can run, and fails it in CI."""
    if os.geteuid() != 0:
        absent("the development cluster needs root")
    missing = [name for name in _SLURM_PROGRAMS if shutil.which(name, path=_SBIN) is None]
    if missing:
        absent(f"no {', '.join(missing)}: apt-get install slurm-wlm slurmdbd munge mariadb-server")


@dataclass(slots=True)
class Slurm:
    """A development cluster: real Slurm daemons in a folder."""

    folder: Path = field(default_factory=lambda: _short_folder("hpo"))

    @property
    def env(self) -> dict[str, str]:
        """What a command needs in its environment to speak to this cluster."""
        return {"SLURM_CONF": f"{self.folder}/slurm.conf"}

    def start(self, nodes: int = 2, settings: Sequence[str] = ()) -> None:
        """Starts all daemons and waits until the nodes are ready."""
        require_slurm()
        given = [word for setting in settings for word in ("--set", setting)]
        up = [str(DEVCLUSTER), "up", str(self.folder), "--nodes", str(nodes), *given]
        _run(up, cwd=self.folder)

    def stop(self) -> None:
        """Cancels all jobs, ends the daemons and removes their files."""
        _run([str(DEVCLUSTER), "down", str(self.folder)], cwd=Path("/"))
        shutil.rmtree(self.folder, ignore_errors=True)

    def restart(self, daemon: str) -> None:
        """Starts a daemon that has ended, and waits until it answers."""
        _run([str(DEVCLUSTER), "start", str(self.folder), daemon], cwd=self.folder)

    def add_account(self, name: str, *limits: str, of_user: Sequence[str] = ()) -> None:
        """An account of root's, with limits such as GrpTRES=cpu=4 and those of root in it."""
        accounting = ("sacctmgr", "-i")
        self.ask(*accounting, "add", "account", name)
        self.ask(*accounting, "add", "user", "root", f"account={name}")
        if limits:
            self.ask(*accounting, "modify", "account", name, "set", *limits)
        if of_user:
            where = ("where", "name=root", f"account={name}")
            self.ask(*accounting, "modify", "user", *where, "set", *of_user)

    def ask(self, *command: str) -> str:
        """The output of one of Slurm's commands; fails the test where the command fails."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.env, "SLURM_TIME_FORMAT": "%s"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def tasks(self, *jobs: str) -> list[Task]:
        """The tasks of these arrays that accounting knows by index; it may lag by 5 s."""
        columns = "JobID,JobName,State,Start,End"
        text = self.ask("sacct", "-XnP", "-o", columns, "-j", ",".join(jobs))
        rows = [line.split("|") for line in text.splitlines()]
        return [
            Task(job, name, int(index), state, _seconds(start), _seconds(end))
            for (id_, name, state, start, end) in rows
            for (job, _, index) in [id_.partition("_")]
            if index.isdigit()  # what waits behind a % is one line: 12_[4-7%4]
        ]


def _own_certificate(tls: Path, folder: Path, user: str) -> dict[str, str]:
    """Copies that belong to the server's user, as PostgreSQL wants its key."""
    for name in ("server.crt", "server.key"):
        copy = Path(shutil.copy(tls / name, folder / name))
        copy.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(copy, user)
    return {
        "ssl_cert_file": str(folder / "server.crt"),
        "ssl_key_file": str(folder / "server.key"),
    }


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _seconds(text: str) -> float | None:
    return float(text) if text.isdigit() else None


def _short_folder(prefix: str) -> Path:
    """A new folder whose path leaves room for a unix socket's name (107 characters in all)."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp")).resolve()
    folder.chmod(0o755)
    return folder


def _url(dialect: str, password: str, port: int, database: str) -> str:
    return f"{dialect}://hpo:{quote(password, safe='')}@127.0.0.1:{port}/{database}"


def postgresql_bin() -> Path | None:
    """Where the server's programs are: on PATH, or where Debian hides them; the newest."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = sorted(versions, key=lambda path: int(path.parts[4]))
    return newest[-1].parent if newest else None


def _as_postgres(*options: str) -> list[str]:
    if os.geteuid() != 0:
        return _bound_to_us(*options)
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *options]


def as_ordinary_user() -> list[str]:
    """A prefix for a program that refuses root; it still reads a Python that only root can."""
    if os.geteuid() != 0:
        return []
    return _as_postgres("--inh-caps=+dac_override", "--ambient-caps=+dac_override")


def _bound_to_us(*options: str) -> list[str]:
    """A prefix whose `--pdeathsig` ends the program should this test run be killed."""
    return ["setpriv", *options] if options and shutil.which("setpriv") else []


def _run(argv: Sequence[str], *, cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{argv[0]}: {done.stdout}{done.stderr}"


def _start(argv: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: a terminal's Ctrl-C reaches the tests, which then stop it."""
    with (folder / "log.txt").open("wb") as log:
        return subprocess.Popen(
            argv,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _answers(process: subprocess.Popen[bytes], ask: Callable[[], None], folder: Path) -> None:
    def answered() -> bool:
        assert process.poll() is None, (folder / "log.txt").read_text()
        try:
            ask()
        except (psycopg2.OperationalError, pymysql.OperationalError):
            return False
        return True

    wait_for(answered, 60, "the server answers")


def _stop(process: subprocess.Popen[bytes] | None, how: signal.Signals) -> None:
    if process is None:
        return
    process.send_signal(how)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
