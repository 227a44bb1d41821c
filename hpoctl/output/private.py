"""The results of `db`: a private PostgreSQL, as lines and as JSON. Never with its password."""

from __future__ import annotations

import json
import re

from hpoctl.control.db import DbChange, DbStatus, State


def status_shape(server: DbStatus) -> dict[str, object]:
    """`db status`."""
    return {
        "dir": str(server.folder),
        "state": server.state,
        "answers": server.answers,
        "node": server.address.node,
        "host": server.address.host,
        "port": server.address.port,
        "pid": server.pid,
        "version": server.version,
        "url": server.url,
        "url_file": str(server.url_file),
        "log": str(server.log),
    }


def change_shape(change: DbChange) -> dict[str, object]:
    """`db up`, `db down`."""
    return {**status_shape(change.server), "changed": change.changed, "notes": change.notes}


def status_rows(server: DbStatus) -> list[tuple[str, str]]:
    """A server at a glance."""
    address = server.address
    where = f"{address.node}, port {address.port}"
    silent = "" if server.answers else f"; {address.host}:{address.port} does not answer from here"
    states = {
        State.RUNNING: f"running on {where}, process {server.pid}{silent}",
        State.ELSEWHERE: f"started on {where}{silent}",
        State.CRASHED: f"not running on {where}: it was not shut down",
        State.STOPPED: "stopped",
    }
    return [
        ("server", f"PostgreSQL {server.version} in {server.folder}"),
        ("state", states[server.state]),
        ("url", server.url),
        ("sweep", sweep_line(server)),
        ("log", str(server.log)),
    ]


def change_line(change: DbChange) -> str:
    """What `db up` or `db down` has done."""
    server = change.server
    where = f"PostgreSQL {server.version} on {server.address.node}, port {server.address.port}"
    if server.state is State.RUNNING:
        return f"{'started' if change.changed else 'already running:'} {where}"
    return f"stopped {where}" if change.changed else "nothing to do: the server does not run"


def sweep_line(server: DbStatus) -> str:
    """What a sweep file says to use a server."""
    path = str(server.url_file)
    plain = re.fullmatch(r"/[\w./+-]*", path, re.ASCII)
    return f"storage: {{url_file: {path if plain else json.dumps(path)}}}"
