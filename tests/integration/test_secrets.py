"""A password that a study needs stays out of every file, argument, answer and trial."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from servers import Server, wait_for

from integration.conftest import MakeSweep, Sweep


@contextmanager
def watching_arguments(found: set[bytes]) -> Iterator[None]:
    """Collects the arguments of every process on this machine, again and again."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    found.add((process / "cmdline").read_bytes())
                except OSError:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


WAYS = ["url_env", "url_file", "pgpass", "my.cnf"]
SECRET_FILES = ("url", ".pgpass", ".my.cnf")


def name_password(sweep: Sweep, server: Server, way: str) -> None:
    """Gives the password to the sweep in one of the ways that there are."""
    url, folder = sweep.hpoctl.env["HPOCTL_STORAGE"], sweep.hpoctl.folder
    if way == "url_env":
        return
    del sweep.hpoctl.env["HPOCTL_STORAGE"]
    if way == "url_file":
        keep_secret(folder / "secret" / "url", url)
        sweep.rewrite(storage={"url_file": "secret/url"})
        return
    escaped = server.password.replace(":", "\\:")
    text = {
        "pgpass": f"*:*:*:hpo:{escaped}\n",
        "my.cnf": f"[client]\npassword = {server.password}\n",
    }
    keep_secret(folder / f".{way}", text[way])
    sweep.rewrite(storage={"url": url.replace(f":{quote(server.password, safe='')}@", "@")})


def keep_secret(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.touch(0o600)
    path.write_text(text)


def forms_of(*passwords: str) -> list[bytes]:
    """A password as it is, and as URLs write it."""
    return [form.encode() for one in passwords for form in (one, quote(one, safe=""), quote(one))]


def written_below(folder: Path) -> dict[Path, bytes]:
    """Every file but those that are there to hold a password."""
    files = (path for path in folder.rglob("*") if path.name not in SECRET_FILES)
    return {path: path.read_bytes() for path in files if path.is_file()}


def assert_unseen(sweep: Sweep, *passwords: str) -> None:
    """No file below the sweep's folder and nothing that a command said has one of these."""
    written = written_below(sweep.hpoctl.folder)
    for secret in forms_of(*passwords):
        assert not [path for path, content in written.items() if secret in content]
        assert not [text for text in sweep.said if secret in text.encode()]


@pytest.mark.parametrize("way", WAYS)
def test_the_password_is_nowhere_to_be_seen(
    make_sweep: MakeSweep, request: pytest.FixtureRequest, way: str
) -> None:
    kind = "mariadb" if way == "my.cnf" else "postgresql"
    dump = (
        'env > "$HPOCTL_TRIAL_DIR/env.txt"; cat /proc/self/environ > "$HPOCTL_TRIAL_DIR/own.txt";'
        " sleep 0.3; echo '{\"loss\": 1.5}'"
    )
    sweep = make_sweep(
        kind,
        mode="async",
        workers=2,
        objective=None,
        objective_args=None,
        command=["bash", "-c", dump],
        budget={"trials": 6},
    )
    server: Server = request.getfixturevalue(kind)
    name_password(sweep, server, way)
    seen: set[bytes] = set()
    with watching_arguments(seen):
        ids = sweep.submit()
        wait_for(lambda: sweep.finished() >= 1, 60, "a first trial has ended")
        assert sweep.slurm is not None
        sweep.said += [
            sweep.slurm.ask("scontrol", "show", "job", ids[0]),
            sweep.slurm.ask("squeue", "-o", "%all"),
            sweep.slurm.ask("scontrol", "write", "batch_script", ids[0], "-"),
        ]
        sweep.ask("workers", "list", "a-study")
        sweep.ask("status", "a-study")
        sweep.await_finished(6)
    for command in ("status", "trials", "report"):
        sweep.ask(command, "a-study", "--json")
    sweep.ask("submit", "sweep.yaml", code=4)
    sweep.ask("submit", "sweep.yaml", "--dry-run")

    assert_unseen(sweep, server.password)
    written = written_below(sweep.hpoctl.folder)
    assert sum(path.name == "env.txt" for path in written) == 6
    assert not [words for words in seen for form in forms_of(server.password) if form in words]
    assert any(b"HPOCTL_TRIAL=" in content for content in written.values())
    assert any(b"hpoctl" in arguments and b"worker" in arguments for arguments in seen)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_submission_to_a_server_that_is_down_says_so_without_the_password(
    make_sweep: MakeSweep, request: pytest.FixtureRequest, kind: str
) -> None:
    sweep = make_sweep(kind, backend="local")
    server: Server = request.getfixturevalue(kind)
    down = re.sub(r":\d+/", ":1/", sweep.hpoctl.env["HPOCTL_STORAGE"])
    sweep.hpoctl.env["HPOCTL_STORAGE"] = down
    sweep.ask("submit", "sweep.yaml", code=4)
    sweep.ask("submit", "sweep.yaml", "--debug", code=1)
    assert ":***@127.0.0.1:1/" in sweep.said[1]
    assert "Traceback" in sweep.said[3]
    assert_unseen(sweep, server.password)


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_a_worker_that_is_refused_says_so_without_the_password(
    make_sweep: MakeSweep, request: pytest.FixtureRequest, kind: str
) -> None:
    gate = "until [ -e go ]; do sleep 0.05; done"
    sweep = make_sweep(kind, backend="local", workers=1, resources={"setup": [gate]})
    server: Server = request.getfixturevalue(kind)
    url = sweep.hpoctl.env["HPOCTL_STORAGE"]
    name_password(sweep, server, "url_file")
    sweep.submit()
    wrong = "zQz%/wrong"
    right = quote(server.password, safe="")
    file = sweep.hpoctl.folder / "secret" / "url"
    file.write_text(url.replace(right, quote(wrong, safe="")))
    (sweep.hpoctl.folder / "go").touch()

    def said() -> str:
        return "".join(log.read_text() for log in sweep.run_dir.logs.glob("*.log"))

    words = "authentication failed" if kind == "postgresql" else "Access denied"
    wait_for(lambda: words in said(), 60, "the worker is refused")
    sweep.ask("status", "a-study", code=4)
    sweep.ask("status", "a-study", "--debug", code=1)
    assert "Traceback" in sweep.said[-1]
    assert_unseen(sweep, server.password, wrong)
