"""A hub of our own on this machine, spoken to by the very libraries that speak to the real one."""

from __future__ import annotations

import hashlib
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath


@dataclass(kw_only=True)
class Repo:
    """The files of each commit, and the commits that names stand for; `main` is the newest."""

    commits: Mapping[str, Mapping[str, bytes]]
    names: Mapping[str, str]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        commit = self.names.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(kw_only=True)
class FakeHub:
    """Repositories as `models/owner/name` and `datasets/owner/name`; `asked` is what was asked."""

    repos: dict[str, Repo]
    asked: list[str] = field(default_factory=list)
    stalled: str | None = None  # of a file with this name half is sent, and then nothing
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def serving(self) -> Iterator[str]:
        """The address at which it answers."""
        handler = type("Handler", (_Handler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            self.released.set()
            server.shutdown()
            thread.join()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])).decode())

    def _answer(self, body: str = "") -> None:
        self.hub.asked.append(self.path)
        path = urllib.parse.unquote(self.path.partition("?")[0]).strip("/")
        for name, repo in self.hub.repos.items():
            kind, _, its = name.partition("/")
            api, files = f"api/{name}", f"{'' if kind == 'models' else 'datasets/'}{its}/resolve/"
            if f"{path}/".startswith(f"{api}/"):
                return self._tell(repo, its, path.removeprefix(api).strip("/"), body)
            if path.startswith(files):
                return self._give(repo, path.removeprefix(files))
        return self._refuse(401, "RepoNotFound")

    def _tell(self, repo: Repo, name: str, rest: str, body: str) -> None:
        what, _, more = rest.partition("/")
        revision, _, folder = more.partition("/")
        commit = repo.commit(revision or "main")
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        files = repo.commits[commit]
        if what in ("", "revision"):
            siblings = [{"rfilename": file} for file in files]
            return self._send({"id": name, "sha": commit, "siblings": siblings, "gated": False})
        entries = _entries(files)
        if what == "paths-info":
            form = urllib.parse.parse_qs(body)
            paths = json.loads(body)["paths"] if body.startswith("{") else form["paths"]
            return self._send([entries[path] for path in paths if path in entries])
        if folder and folder not in entries:
            return self._refuse(404, "EntryNotFound")
        deep = "recursive=true" in self.path.lower()
        below = f"{folder}/" if folder else ""
        found = [path for path in entries if path.startswith(below) and path != folder]
        return self._send(
            [entries[path] for path in found if deep or "/" not in path.removeprefix(below)]
        )

    def _give(self, repo: Repo, rest: str) -> None:
        revision, _, file = rest.partition("/")
        commit = repo.commit(revision)
        if repo.gated:
            return self._refuse(403, "GatedRepo")
        if commit is None:
            return self._refuse(404, "RevisionNotFound")
        if file not in repo.commits[commit]:
            return self._refuse(404, "EntryNotFound", commit)
        return self._send(repo.commits[commit][file], commit=commit)

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self._send({"error": code}, status, code, commit)

    def _send(self, said: object, status: int = 200, code: str = "", commit: str = "") -> None:
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        first, last = 0, len(content)
        if asked := self.headers.get("Range"):
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first, last = int(begin), int(end) + 1 if end else last
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(last - first))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        for name, value in (("X-Error-Code", code), ("X-Repo-Commit", commit)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.stalled is not None and self.path.partition("?")[0].endswith(self.hub.stalled):
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.hub.reached.set()
            self.hub.released.wait(60)
            return
        self.wfile.write(content[first:last])

    def log_message(self, format: str, *args: object) -> None:
        pass


def _entries(files: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """The files, and the folders above them, as the hub's API tells them."""
    folders = {str(folder) for file in files for folder in PurePosixPath(file).parents}
    found: dict[str, dict[str, object]] = {
        folder: {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
        for folder in sorted(folders - {"."})
    }
    for file, content in files.items():
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        found[file] = {"type": "file", "path": file, "size": len(content), "oid": oid}
    return found
