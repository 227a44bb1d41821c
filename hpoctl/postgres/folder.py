"""The folder of a private PostgreSQL: names of its files, its lock, and what is written in them.

All of it is open to its owner only: the folder is 0700, the files with the password are 0600.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from hpoctl.errors import StudyError

NAME = "hpoctl"  # of the role that workers log in with, and of its database
_SOCKET_BYTES = 107  # what Linux takes as a socket's name, see unix(7)
_LOCK_WAIT_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a server was started last: the machine, the name by which others reach it, the port."""

    node: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Folder:
    """Names of the files of one server; an absolute path."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def url_file(self) -> Path:
        return self.path / "url"

    @property
    def passwords(self) -> Path:
        """The password, as PostgreSQL's own programs read it (PGPASSFILE)."""
        return self.path / "pgpass"

    @property
    def certificate(self) -> Path:
        return self.path / "server.crt"

    @property
    def key(self) -> Path:
        return self.path / "server.key"

    @property
    def local_settings(self) -> Path:
        """Settings of the user's own; read last, never written."""
        return self.path / "local.conf"

    @property
    def backups(self) -> Path:
        return self.path / "backup"

    @property
    def _address_file(self) -> Path:
        return self.path / "server.json"

    def address(self) -> Address:
        """Where the server was started last. Raises StudyError where there is none."""
        try:
            return Address(**json.loads(self._address_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StudyError(
                f"{self.path}: no database here: 'hpoctl db up {self.path}' makes one"
            ) from None
        except (OSError, ValueError, TypeError) as wrong:
            raise StudyError(f"{self._address_file}: {wrong}") from wrong

    def is_ours(self) -> bool:
        """Whether hpoctl has made a server here, or has begun to."""
        return self._address_file.exists()

    def prepare(self) -> None:
        """Makes the folder, closed to others. Raises StudyError where it is in other use."""
        socket = self.path / ".s.PGSQL.65535"
        if (length := len(os.fsencode(socket))) > _SOCKET_BYTES:
            raise StudyError(
                f"{self.path}: {length - _SOCKET_BYTES} bytes too long for a socket's name:"
                " give a shorter DIR"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            others = [entry.name for entry in self.path.iterdir() if entry.name != "lock"]
            if others and not self.is_ours():
                raise StudyError(f"{self.path} holds other files: give a new or an empty folder")
            self.path.chmod(0o700)
        except OSError as wrong:
            raise StudyError(f"{self.path}: {wrong.strerror}") from wrong

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While nobody else starts or stops this server, on any machine that sees the folder."""
        lock = self.path / "lock"
        lock.touch(mode=0o600)
        with lock.open("a") as file:
            deadline = time.monotonic() + _LOCK_WAIT_S
            while not _try_lock(file.fileno(), self.path):
                if time.monotonic() > deadline:
                    raise StudyError(f"{self.path}: another 'hpoctl db' is at work: wait for it")
                time.sleep(0.1)
            yield

    def write_address(self, address: Address) -> None:
        """Remembers where the server is started, and how workers reach it."""
        write_private(self._address_file, json.dumps(asdict(address), indent=2) + "\n")

    def write_password(self, password: str) -> None:
        """Keeps the password, for the URL and for PostgreSQL's programs."""
        write_private(self.passwords, f"*:*:*:{NAME}:{password}\n")

    def write_url(self, address: Address) -> None:
        """Brings the file that a sweep names up to date."""
        write_private(self.url_file, self.url(address, password=self._password()) + "\n")

    def url(self, address: Address, *, password: str | None = None) -> str:
        """The server's database; with TLS its certificate must be the one in this folder."""
        secret = f":{password}" if password else ""
        host = f"[{address.host}]" if ":" in address.host else address.host
        plain = f"postgresql://{NAME}{secret}@{host}:{address.port}/{NAME}"
        if not self.certificate.exists():
            return plain
        return f"{plain}?sslmode=verify-ca&sslrootcert={quote(str(self.certificate))}"

    def _password(self) -> str:
        return self.passwords.read_text(encoding="utf-8").strip().rpartition(":")[2]


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where a user's server is, unless another folder is named."""
    data = environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "hpoctl" / "db"


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads: whole, or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _try_lock(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as wrong:  # a Lustre that is mounted without locks
        raise StudyError(
            f"{path}: this file system has no locks ({wrong.strerror}): give a folder on another"
        ) from wrong
    return True
