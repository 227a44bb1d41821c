"""`hpoctl db` on real PostgreSQL programs, as an ordinary user also where the tests run as root."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from servers import absent, as_ordinary_user, free_port, postgresql_bin, wait_for
from test_cli import imported, open_desk

from hpoctl.errors import StudyError
from hpoctl.postgres import place, programs
from hpoctl.study.location import parse_url

ROOT = Path(__file__).parents[1]
SWEEP = """\
study: private
objective: hpoctl.objectives.toy
search_space: {lr: {type: log_uniform, min: 1e-4, max: 1e-1}}
sampler: random
budget: {trials: 4}
workers: 2
backend: local
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """An ordinary user's home, with a folder for a server whose name is a hard one."""

    home: Path

    @property
    def dir(self) -> Path:
        return self.home / "it's a $db #1"

    @property
    def data(self) -> Path:
        return self.dir / "data"

    @property
    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "CONDA_PREFIX") if name in os.environ}
        python = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **python, "HOME": str(self.home)}

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*as_ordinary_user(), sys.executable, "-m", "hpoctl", *map(str, words)],
            cwd=self.home,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str | Path, code: int = 0) -> tuple[str, str]:
        """What a command says on stdout and on stderr."""
        process = self.start(*words)
        out, error = process.communicate(timeout=120)
        assert process.returncode == code, f"{words}: {out}{error}"
        return out, error

    def complaint(self, *words: str | Path, code: int = 4) -> str:
        """The one line of a command that fails."""
        out, error = self(*words, code=code)
        assert out == ""
        assert error.count("\n") == 1, error
        return error

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self("db", "status", self.dir, "--json")[0])
        return status

    @property
    def url(self) -> str:
        return (self.dir / "url").read_text().strip()

    @property
    def password(self) -> str:
        return self.url.split("@")[0].rpartition(":")[2]

    @property
    def pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def ask(self, *statements: str, url: str | None = None, **options: str) -> list[Any]:
        words: dict[str, Any] = {"connect_timeout": 10, **options}
        with closing(psycopg2.connect(url or self.url, **words)) as server:
            server.autocommit = True
            with server.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return [*cursor.fetchall()] if cursor.description else []

    def program(self, name: str, *words: str | Path) -> str:
        """One of PostgreSQL's programs, as the user, with the user's password file."""
        bin_ = postgresql_bin()
        assert bin_ is not None
        port = str(self.status()["port"])
        argv = [*as_ordinary_user(), bin_ / name, "-h", self.dir, "-p", port, *words]
        environ = {**self.environ, "PGPASSFILE": str(self.dir / "pgpass")}
        done = subprocess.run(
            argv, env=environ, cwd="/", capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _open_lab() -> Lab:
    if postgresql_bin() is None:
        absent("no PostgreSQL server: apt-get install postgresql")
    home = Path(tempfile.mkdtemp(prefix="hlab", dir="/tmp"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(home, owner.pw_uid, owner.pw_gid)
    return Lab(home)


def _close(lab: Lab) -> None:
    if (lab.data / "postmaster.pid").exists():
        lab.start("db", "down", lab.dir).communicate(timeout=120)
    shutil.rmtree(lab.home)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A user without a server."""
    made = _open_lab()
    yield made
    _close(made)


@pytest.fixture(scope="module")
def served() -> Iterator[Lab]:
    """A user whose server runs, one for the tests that leave it as it is."""
    made = _open_lab()
    made("db", "up", made.dir)
    yield made
    _close(made)


# up, and what it leaves


def test_a_sweep_with_the_line_that_up_prints_finishes(served: Lab) -> None:
    out, error = served("db", "up", served.dir)
    line = next(line for line in out.splitlines() if line.startswith("storage: "))
    assert error.splitlines()[-1].endswith("hpoctl submit SWEEP")
    (served.home / "sweep.yaml").write_text(f"{SWEEP}{line}\n")
    served("run", "sweep.yaml")
    assert served.ask("select state, count(*) from trials group by state") == [("COMPLETE", 4)]
    shown = json.loads(served("status", "--json")[0])
    assert shown["storage"].startswith("postgresql://hpoctl:***@")
    kept = [path for path in (served.home / "runs").rglob("*") if path.is_file()]
    assert [path for path in kept if served.password.encode() in path.read_bytes()] == []


def test_only_its_owner_may_read_it(served: Lab) -> None:
    owner = served.home.stat().st_uid
    assert stat.S_IMODE(served.dir.stat().st_mode) == 0o700
    for path in served.dir.iterdir():
        assert path.stat().st_uid == owner
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    holders = [path for path in served.dir.rglob("*") if path.is_file()]
    found = {path.name for path in holders if served.password.encode() in path.read_bytes()}
    assert found == {"url", "pgpass"}


def test_the_password_is_in_no_command_line_and_no_output(lab: Lab) -> None:
    seen = set[bytes]()
    for words in (["up"], ["backup"], ["status"], ["url"], ["down"]):
        process = lab.start("db", *words, lab.dir)
        while process.poll() is None:
            seen |= _command_lines()
        assert process.returncode == 0
        said = "".join(process.communicate())
        assert lab.password not in said
    assert any(b"pg_dump" in line for line in seen)
    assert any(b"--single" in line for line in seen)
    assert not [line for line in seen if lab.password.encode() in line]
    assert lab.password not in (lab.dir / "log").read_text()


def _command_lines() -> set[bytes]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.add(path.read_bytes())
        except OSError:  # ended between
            continue
    return found


def test_it_is_durable_and_its_role_is_an_ordinary_one(served: Lab) -> None:
    settings = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
    assert [served.ask(f"show {name}") for name in settings] == [[("on",)]] * 4
    whose = (
        "select current_user, rolsuper, rolcreaterole from pg_roles where rolname = current_user"
    )
    assert served.ask(whose) == [("hpoctl", False, False)]
    kept = served.program(
        *("psql", "-U", "hpoctl_admin", "-d", "postgres", "-Atc"),
        "select rolname, coalesce(left(rolpassword, 13), 'none') from pg_authid where rolcanlogin"
        " order by 1",
    )
    assert kept.splitlines() == ["hpoctl|SCRAM-SHA-256", "hpoctl_admin|none"]


def test_nobody_comes_in_without_the_password(served: Lab) -> None:
    refused = psycopg2.OperationalError
    wrong = served.url.replace(served.password, "wrong")
    with pytest.raises(refused, match="password authentication failed"):
        served.ask("select 1", url=wrong)
    with pytest.raises(refused, match="password authentication failed"):
        served.ask("select 1", url=wrong, host=str(served.dir))
    with pytest.raises(refused, match="no password supplied"):
        served.ask("select 1", url=wrong.replace(":wrong", ""), passfile="/none")
    for user, database in (("hpoctl_admin", "postgres"), ("hpoctl", "postgres")):
        with pytest.raises(refused, match=r"no pg_hba\.conf entry"):
            served.ask("select 1", user=user, dbname=database)


def test_only_its_owner_is_the_admin(served: Lab) -> None:
    if os.geteuid() != 0:
        absent("needs a second user")
    with pytest.raises(psycopg2.OperationalError, match="Peer authentication failed"):
        served.ask("select 1", user="hpoctl_admin", host=str(served.dir), dbname="postgres")


def test_the_connection_is_encrypted_to_this_very_server(served: Lab) -> None:
    if shutil.which("openssl") is None:
        absent("no openssl: apt-get install openssl")
    mine = "select version from pg_stat_ssl where pid = pg_backend_pid() and ssl"
    assert served.ask(mine)[0][0].startswith("TLS")
    with pytest.raises(psycopg2.OperationalError, match="no encryption"):
        served.ask("select 1", sslmode="disable")
    other = served.home / "other.crt"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hpoctl"]
    files = ["-keyout", os.devnull, "-out", str(other)]
    subprocess.run(["openssl", *request, *files], check=True, capture_output=True, timeout=60)
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        served.ask("select 1", sslrootcert=str(other))


def test_url_shows_the_password_only_when_asked(served: Lab) -> None:
    shown = served("db", "url", served.dir)[0]
    assert "hpoctl:***@" in shown and "url_file" in shown
    assert served("db", "url", served.dir, "--show-password")[0] == f"{served.url}\n"
    assert served("db", "url", served.dir, "--quiet")[0] == f"{served.dir / 'url'}\n"
    assert str(parse_url(served.url, "url")) == shown.splitlines()[0]


def test_status_says_where_it_runs(served: Lab) -> None:
    status = served.status()
    assert (status["state"], status["answers"], status["pid"]) == ("running", True, served.pid)
    assert f"@{status['host']}:{status['port']}/" in status["url"]
    assert f"process {served.pid}" in served("db", "status", served.dir)[0]


def test_status_imports_nothing_heavy(served: Lab, tmp_path: Path) -> None:
    desk = open_desk(tmp_path)
    for words in (["db", "status", str(served.dir)], ["db", "url", str(served.dir)]):
        assert imported(desk, words) == []


def test_it_is_reached_by_another_address_of_its_machine(lab: Lab) -> None:
    address = _outward_address()
    change = json.loads(lab("db", "up", lab.dir, "--host", address, "--json")[0])
    assert not [note for note in change["notes"] if "--host" in note]
    assert f"@{address}:" in lab.url
    assert lab.ask("select host(inet_server_addr())") == [(address,)]
    lab("db", "down", lab.dir)
    lab("db", "up", lab.dir)
    assert f"@{address}:" in lab.url


def _outward_address() -> str:
    """An address that other machines would see; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            absent("this machine has no network")
        found: str = probe.getsockname()[0]
        return found


def test_a_second_up_changes_nothing(served: Lab) -> None:
    before, pid = served.url, served.pid
    assert served("db", "up", served.dir)[0].startswith("already running: ")
    change = json.loads(served("db", "up", served.dir, "--json")[0])
    assert (change["changed"], change["pid"]) == (False, pid)
    assert served.url == before
    port = str(free_port())
    assert "runs on port" in served.complaint("db", "up", served.dir, "--port", port)


def test_two_ups_at_once_start_one_server(lab: Lab) -> None:
    both = [lab.start("db", "up", lab.dir) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].split(" ")[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said == ["already", "started"]
    assert lab.ask("select 1") == [(1,)]


# down, and what was not shut down


def test_data_password_and_port_outlast_down_and_up(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    before = lab.url
    lab.ask("create table kept (n int)", "insert into kept values (7)")
    assert lab("db", "down", lab.dir)[0].startswith("stopped ")
    assert lab("db", "down", lab.dir)[0] == "nothing to do: the server does not run\n"
    assert lab.status()["state"] == "stopped"
    assert "'hpoctl db up" in lab.complaint("db", "backup", lab.dir)
    lab("db", "up", lab.dir)
    assert lab.url == before
    assert lab.ask("select n from kept") == [(7,)]


def test_a_server_that_was_killed_is_recovered(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    lab.ask("create table kept (n int)", "insert into kept values (7)")
    os.kill(lab.pid, signal.SIGKILL)
    wait_for(lambda: lab.status()["state"] == "crashed", 20, "it is seen as crashed")
    assert "recovered" in lab("db", "up", lab.dir)[1]
    assert lab.ask("select n from kept") == [(7,)]


def test_a_pid_that_another_program_has_by_now_is_not_the_server(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    status = lab.status()
    texts = {path: path.read_text() for path in _marks(lab, status["port"])}
    lab("db", "down", lab.dir)
    with subprocess.Popen([*as_ordinary_user(), "sleep", "600"]) as stranger:
        for path, text in texts.items():  # as a reboot leaves them
            path.write_text(text.replace(str(status["pid"]), str(stranger.pid)))
            shutil.chown(path, *_owner(lab))
        assert lab.status()["state"] == "crashed"
        lab("db", "down", lab.dir)
        lab("db", "up", lab.dir)
        assert stranger.poll() is None
        stranger.kill()
    assert lab.ask("select 1") == [(1,)]


def _marks(lab: Lab, port: int) -> tuple[Path, Path]:
    return lab.data / "postmaster.pid", lab.dir / f".s.PGSQL.{port}.lock"


def _owner(lab: Lab) -> tuple[int, int]:
    home = lab.home.stat()
    return home.st_uid, home.st_gid


def test_a_server_on_another_machine_is_left_alone(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    marker, address = lab.data / "postmaster.pid", lab.dir / "server.json"
    here = address.read_text()
    address.write_text(json.dumps({**json.loads(here), "node": "login9"}))
    for verb in ("up", "down"):
        complaint = lab.complaint("db", verb, lab.dir)
        assert "in use by a PostgreSQL on login9" in complaint and f"'rm {marker}'" in complaint
    assert (lab.status()["state"], lab.status()["answers"]) == ("elsewhere", True)
    lab("db", "backup", lab.dir)
    address.write_text(here)
    assert lab.status()["state"] == "running"


def test_data_on_a_local_disk_is_left_to_its_machine(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    lab("db", "down", lab.dir)
    disk, address = lab.home / "disk", lab.dir / "server.json"
    lab.data.rename(disk)
    lab.data.symlink_to(disk)
    lab("db", "up", lab.dir)
    assert lab.ask("select 1") == [(1,)]
    lab("db", "down", lab.dir)
    here = address.read_text()
    address.write_text(json.dumps({**json.loads(here), "node": "login9"}))
    disk.rename(lab.home / "not mounted here")
    assert "its data is on a disk of login9" in lab.complaint("db", "up", lab.dir)
    assert lab.status()["state"] == "elsewhere"


def test_a_first_up_that_was_killed_is_made_good_by_the_next(lab: Lab) -> None:
    killed = lab.start("db", "up", lab.dir)
    wait_for(lambda: any(lab.dir.glob("data.partial.*/*")), 30, "the data is being made")
    killed.kill()
    killed.communicate()
    lab("db", "up", lab.dir)
    assert lab.ask("select 1") == [(1,)]


def test_in_the_foreground_it_ends_with_its_command(lab: Lab) -> None:
    process = lab.start("db", "up", lab.dir, "--foreground")
    wait_for(lambda: (lab.dir / "url").exists(), 60, "it is up")
    assert lab.ask("select 1") == [(1,)]
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.split(" ")[0]) == (0, "started")
    assert lab.status()["state"] == "stopped"


def test_in_the_foreground_the_end_of_the_server_is_an_error(lab: Lab) -> None:
    process = lab.start("db", "up", lab.dir, "--foreground", "--quiet")
    wait_for(lambda: (lab.dir / "url").exists(), 60, "it is up")
    os.kill(lab.pid, signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (4, f"{lab.dir / 'url'}\n")
    assert error == f"hpoctl: {lab.dir}: the server has ended: see {lab.dir / 'log'}\n"


def test_workers_go_on_when_their_server_was_killed_and_is_up_again(lab: Lab) -> None:
    line = lab("db", "up", lab.dir)[0].splitlines()[-1]
    more = "mode: async\nobjective_args: {seconds: 0.4}\n"
    slow = SWEEP.replace("trials: 4", "trials: 12") + more
    (lab.home / "sweep.yaml").write_text(f"{slow}{line}\n")
    lab("submit", "sweep.yaml")
    wait_for(lambda: _complete(lab) >= 2, 60, "trials have ended")
    os.kill(lab.pid, signal.SIGKILL)
    wait_for(lambda: lab.status()["state"] == "crashed", 20, "it is seen as crashed")
    lab("db", "up", lab.dir)
    assert 2 <= _complete(lab) < 12
    wait_for(lambda: _complete(lab) == 12, 120, "all trials have ended")


def _complete(lab: Lab) -> int:
    return int(lab.ask("select count(*) from trials where state = 'COMPLETE'")[0][0])


# backup


def test_a_backup_is_restored_into_another_server_s_database(served: Lab, lab: Lab) -> None:
    served.ask("create table if not exists mine as select 7 as n")
    file = served.home / "out" / "mine.dump"
    assert served("db", "backup", served.dir, "-o", file)[0] == f"{file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    lab("db", "up", lab.dir)
    lab.program("pg_restore", "-U", "hpoctl", "-d", "hpoctl", "--exit-on-error", file)
    assert lab.ask("select n from mine") == [(7,)]


def test_a_backup_that_fails_leaves_the_last_one(served: Lab) -> None:
    file = served.home / "last.dump"
    served("db", "backup", served.dir, "-o", file)
    before = file.read_bytes()
    secret = served.dir / "pgpass"
    kept = secret.read_text()
    secret.write_text(kept.replace(served.password, "wrong"))
    try:
        complaint = served.complaint("db", "backup", served.dir, "-o", file)
    finally:
        secret.write_text(kept)
    assert "pg_dump: " in complaint and "password authentication failed" in complaint
    assert file.read_bytes() == before
    assert not file.with_name("last.dump.partial").exists()


# what is refused


def test_root_is_told_that_postgresql_refuses_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        absent("needs root")
    desk = open_desk(tmp_path)
    done = desk.call("db", "up", str(tmp_path / "db"))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == (
        "hpoctl: PostgreSQL refuses root: run 'hpoctl db up' as an ordinary user\n"
    )
    assert not (tmp_path / "db").exists()


def test_without_a_server_every_other_verb_names_up(lab: Lab) -> None:
    for verb in ("status", "url", "backup", "down"):
        assert lab.complaint("db", verb) == (
            f"hpoctl: {lab.home}/.local/share/hpoctl/db: no database here:"
            f" 'hpoctl db up {lab.home}/.local/share/hpoctl/db' makes one\n"
        )
    assert not (lab.home / ".local").exists()


def test_a_folder_in_other_use_is_left_as_it_is(lab: Lab) -> None:
    (lab.home / "thesis.tex").touch()
    mode = lab.home.stat().st_mode
    assert "holds other files" in lab.complaint("db", "up", lab.home)
    assert [path.name for path in lab.home.iterdir()] == ["thesis.tex"]
    assert lab.home.stat().st_mode == mode


def test_a_path_too_long_for_a_socket_is_refused(lab: Lab) -> None:
    complaint = lab.complaint("db", "up", lab.home / ("x" * 100))
    assert "too long for a socket's name: give a shorter DIR" in complaint
    assert list(lab.home.iterdir()) == []


def test_a_port_that_is_taken_is_named(lab: Lab, served: Lab) -> None:
    port = str(served.status()["port"])
    complaint = lab.complaint("db", "up", lab.dir, "--port", port)
    assert f"port {port} of " in complaint and "--port N" in complaint
    lab("db", "up", lab.dir)
    assert lab.status()["port"] != int(port)


def test_a_setting_that_the_server_refuses_is_told_in_its_words(lab: Lab) -> None:
    lab("db", "up", lab.dir)
    lab("db", "down", lab.dir)
    (lab.dir / "local.conf").write_text("shared_buffers = many\n")
    complaint = lab.complaint("db", "up", lab.dir)
    assert "the server does not start: " in complaint and "FATAL" in complaint
    (lab.dir / "local.conf").write_text("shared_buffers = 32MB\n")
    lab("db", "up", lab.dir)
    assert lab.ask("show shared_buffers") == [("32MB",)]


# the parts


def test_without_programs_the_way_to_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"conda install.*apt-get install postgresql") as wrong:
        programs.find({"PATH": str(tmp_path)}, None, tmp_path)
    assert "\n" not in str(wrong.value)


def _install(folder: Path, version: str) -> Path:
    """Programs that say their version and do no more."""
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres", "pg_dump"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n")
        program.chmod(0o755)
    return folder


def test_programs_of_path_come_before_conda_s_and_the_newest_of_the_distribution(
    tmp_path: Path,
) -> None:
    old = _install(tmp_path / "usr/lib/postgresql/9/bin", "9.6.24")
    new = _install(tmp_path / "usr/lib/postgresql/17/bin", "17.2")
    conda = _install(tmp_path / "env/bin", "16.4")
    path = _install(tmp_path / "module/bin", "14.1")
    everything = {"PATH": str(path), "CONDA_PREFIX": str(conda.parent)}
    assert programs.find(everything, None, tmp_path).folder == path
    assert programs.find({"CONDA_PREFIX": str(conda.parent)}, None, tmp_path).folder == conda
    assert programs.find({}, None, tmp_path).folder == new
    assert programs.find(everything, "9", tmp_path).folder == old
    with pytest.raises(StudyError, match=r"made by PostgreSQL 13, found is 14\.1 in .*=13'"):
        programs.find(everything, "13", tmp_path)


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount() -> None:
    mounts = (
        "/dev/sda / ext4 rw 0 0\n10.0.0.1:/home /home nfs4 rw 0 0\n"
        "tank /home/ada/my\\040lab lustre rw 0 0\n"
    )
    kinds = [
        place.file_system(Path(path), mounts)
        for path in ("/tmp/db", "/home/ada/db", "/home/ada/my lab/db", "/homes/db")
    ]
    assert kinds == ["ext4", "nfs4", "lustre", "ext4"]
