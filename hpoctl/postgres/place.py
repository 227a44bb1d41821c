"""What a user should know about the place of a server: its disk, its name, its port."""

from __future__ import annotations

import random
import re
import socket
from pathlib import Path

from hpoctl.errors import StudyError
from hpoctl.postgres.folder import Address, Folder

_SHARED = ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "fuse.sshfs", "9p", "pvfs2")
_PORTS = range(15_000, 32_000)  # above the well-known, below those that Linux gives to clients


def notes(folder: Folder, address: Address) -> tuple[str, ...]:
    """What may turn out badly later, one line each."""
    found = []
    kind = file_system(folder.data.resolve(), Path("/proc/mounts").read_text(encoding="utf-8"))
    if kind in _SHARED:
        found.append(
            f"{folder.data} is on {kind}: a disk of this machine is faster: 'hpoctl db down', move"
            " it there, and leave a symbolic link to it"
        )
    if all(host.startswith("127.") or host == "::1" for host in _addresses(address)):
        found.append(
            f"'{address.host}' leads nowhere but to this machine itself, as seen from here: if"
            " compute nodes know it by another name, give --host"
        )
    return tuple(found)


def file_system(path: Path, mounts: str) -> str:
    """The kind of file system under a path, from the text of /proc/mounts."""
    kinds = {}
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        kinds[Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point))] = kind
    return next((kinds[above] for above in (path, *path.parents) if above in kinds), "unknown")


def free_port() -> int:
    """A port that nobody listens on now, by chance: two users of one machine seldom meet."""
    tried = random.sample(_PORTS, 100)
    port = next((port for port in tried if is_free(port)), None)
    if port is None:
        raise StudyError(f"no free port between {_PORTS.start} and {_PORTS.stop}: give --port")
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _addresses(address: Address) -> set[str]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(host[0]) for *_, host in found}
