"""A hub of our own on this machine, spoken to by the very library that speaks to the real one."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "gpt2"}',
    "model.safetensors": b"w" * 5000,
    "pytorch_model.bin": b"p" * 7000,
}
SWEEP = """
study: s
objective: hpoctl.objectives.causal_lm
objective_args: {model: {pretrained: acme/tiny}}
metrics: [{name: eval_loss}]
search_space: {training: {learning_rate: {type: uniform, min: 0, max: 1}}}
budget: {trials: 3}
"""


class Hub(BaseHTTPRequestHandler):
    """The addresses of the hub that a snapshot needs; keeps what was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        self.asked.append(self.path)
        name = self.path.rpartition("/")[2]
        if self.path.startswith("/api/models/acme/tiny/tree/"):
            tree = [
                {"type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in FILES.items()
            ]
            self._send(200, json.dumps(tree).encode(), body=body)
        elif self.path.startswith("/api/models/acme/tiny"):
            siblings = [{"rfilename": file} for file in FILES]
            text = json.dumps({"id": "acme/tiny", "sha": COMMIT, "siblings": siblings}).encode()
            self._send(200, text, body=body)
        elif self.path.startswith("/acme/tiny/resolve/") and name in FILES:
            self._send(200, FILES[name], body=body)
        else:
            self._send(404, b"{}", body=body)

    def _send(self, status: int, content: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Desk:
    """A folder with a sweep, and a cache of its own for what comes from the hub."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.asked = folder, Hub.asked
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": url,
            "HF_HOME": str(folder / "cache"),
        }
        (folder / "sweep.yaml").write_text(SWEEP)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *command],
            cwd=self.folder,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    Hub.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Desk(tmp_path, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def prefetch(desk: Desk) -> list[dict[str, object]]:
    done = desk.run("-m", "hpoctl", "prefetch", "sweep.yaml", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


READY = """
from hpoctl import config, objectives
from hpoctl.objectives.causal_lm import hub
from pathlib import Path
print(hub.go_offline(objectives.hub_names(config.load(Path("sweep.yaml")))))
from huggingface_hub import snapshot_download
print(snapshot_download("acme/tiny", ignore_patterns=["*.bin"]))
"""


def test_a_model_is_fetched_once_in_the_format_that_is_read(desk: Desk) -> None:
    (fetched,) = prefetch(desk)
    path = Path(str(fetched["path"]))
    assert sorted(file.name for file in path.iterdir()) == ["config.json", "model.safetensors"]
    assert fetched["size"] == len(FILES["config.json"]) + len(FILES["model.safetensors"])


def test_a_worker_asks_no_hub_for_what_was_fetched(desk: Desk) -> None:
    prefetch(desk)
    desk.asked.clear()
    done = desk.run("-c", READY)
    assert done.stdout.splitlines()[0] == "True", done.stderr
    assert Path(done.stdout.splitlines()[1]).is_dir()
    assert desk.asked == []


def test_a_worker_asks_the_hub_for_what_was_not_fetched(desk: Desk) -> None:
    done = desk.run("-c", READY)
    assert done.stdout.splitlines()[0] == "False", done.stderr
    assert desk.asked


def test_what_was_deleted_since_is_asked_for_again(desk: Desk) -> None:
    (fetched,) = prefetch(desk)
    path = Path(str(fetched["path"]))
    path.rename(path.with_name("elsewhere"))
    assert desk.run("-c", READY).stdout.splitlines()[0] == "False"


def test_a_name_that_the_hub_does_not_know_is_one_line_with_the_way_out(desk: Desk) -> None:
    sweep = desk.folder / "sweep.yaml"
    sweep.write_text(SWEEP.replace("acme/tiny", "acme/tyni"))
    done = desk.run("-m", "hpoctl", "prefetch", "sweep.yaml")
    assert done.returncode == 1
    assert "model acme/tyni: cannot be fetched" in done.stderr
    assert "hf auth login" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_choice_of_a_searched_model_is_fetched_and_folders_are_not(desk: Desk) -> None:
    (desk.folder / "mine").mkdir()
    space = "{model: {pretrained: {type: categorical, values: [acme/tiny, mine, x.gguf]}}}"
    lines = [line for line in SWEEP.splitlines() if not line.startswith(("search", "objective_"))]
    (desk.folder / "sweep.yaml").write_text("\n".join([*lines, f"search_space: {space}"]))
    assert [fetched["name"] for fetched in prefetch(desk)] == ["acme/tiny"]


def test_a_program_of_the_users_own_is_told_what_to_do_instead(desk: Desk) -> None:
    sweep = desk.folder / "sweep.yaml"
    sweep.write_text(SWEEP.replace("hpoctl.objectives.causal_lm", "train:objective"))
    done = desk.run("-m", "hpoctl", "prefetch", "sweep.yaml")
    assert done.returncode == 2
    assert "HF_HUB_OFFLINE=1 in resources.setup" in done.stderr
