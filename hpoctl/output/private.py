"""The results of `db`: a private PostgreSQL, as lines and as JSON. Never with its password."""

from __future__ import annotations

import json
import re
import sys

from hpoctl.control.db import DbChange, DbStatus, State
from hpoctl.output import Format, say, shell_word, show_json, suggest


def show_status(server: DbStatus, form: Format) -> None:
    """`db status`."""
    if form is Format.JSON:
        show_json(_status_shape(server))
    elif form is Format.QUIET:
        print(server.state)
    else:
        for head, text in _status_rows(server):
            print(f"{head:8}{text}")
        alive = server.state in (State.RUNNING, State.ELSEWHERE)
        suggest("submit SWEEP" if alive else f"db up {shell_word(str(server.folder))}")


def show_change(change: DbChange, form: Format) -> None:
    """`db up`, `db down`: what was done, and after `up` the line for a sweep file."""
    up = change.server.state is State.RUNNING
    if form is Format.JSON:
        show_json(_change_shape(change))
    elif form is Format.QUIET:
        print(change.server.url_file)
    else:
        print(_change_line(change))
        if up:
            print(_sweep_line(change.server))
        for note in change.notes:
            say(f"note: {note}")
    sys.stdout.flush()  # `db up --foreground` stays


def show_url(server: DbStatus, secret: str | None, form: Format) -> None:
    """`db url`: without its password, unless it was asked for."""
    if form is Format.JSON:
        show_json({"url": secret or server.url, "url_file": str(server.url_file)})
    elif form is Format.QUIET:
        print(secret or server.url_file)
    else:
        print(secret or server.url)
        if secret is None:
            print(_sweep_line(server))


def _status_shape(server: DbStatus) -> dict[str, object]:
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


def _change_shape(change: DbChange) -> dict[str, object]:
    """`db up`, `db down`."""
    return {**_status_shape(change.server), "changed": change.changed, "notes": change.notes}


def _status_rows(server: DbStatus) -> list[tuple[str, str]]:
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
        ("sweep", _sweep_line(server)),
        ("log", str(server.log)),
    ]


def _change_line(change: DbChange) -> str:
    """What `db up` or `db down` has done."""
    server = change.server
    where = f"PostgreSQL {server.version} on {server.address.node}, port {server.address.port}"
    if server.state is State.RUNNING:
        return f"{'started' if change.changed else 'already running:'} {where}"
    return f"stopped {where}" if change.changed else "nothing to do: the server does not run"


def _sweep_line(server: DbStatus) -> str:
    """What a sweep file says to use a server."""
    path = str(server.url_file)
    plain = re.fullmatch(r"/[\w./+-]*", path, re.ASCII)
    return f"storage: {{url_file: {path if plain else json.dumps(path)}}}"
