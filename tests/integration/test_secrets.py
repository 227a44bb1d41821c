"""A password that a study needs stays out of every file, argument, answer and trial."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from servers import PostgreSQL, wait_for

from integration.conftest import MakeSweep


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


@pytest.mark.parametrize("key", ["url_env", "url_file"])
def test_the_password_is_nowhere_to_be_seen(
    make_sweep: MakeSweep, postgresql: PostgreSQL, tmp_path: Path, key: str
) -> None:
    dump = (
        'env > "$HPOCTL_TRIAL_DIR/env.txt"; cat /proc/self/environ > "$HPOCTL_TRIAL_DIR/own.txt";'
        " sleep 0.3; echo '{\"loss\": 1.5}'"
    )
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=2,
        objective=None,
        objective_args=None,
        command=["bash", "-c", dump],
        budget={"trials": 6},
    )
    if key == "url_file":
        file = tmp_path / "secret" / "url"
        file.parent.mkdir()
        file.write_text(sweep.hpoctl.env.pop("HPOCTL_STORAGE"))
        file.chmod(0o600)
        sweep.rewrite(storage={"url_file": "secret/url"})
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

    password = postgresql.password
    forms = [form.encode() for form in (password, quote(password, safe=""), quote(password))]
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "url"]
    assert sum(path.name == "env.txt" for path in files) == 6
    written = {path: path.read_bytes() for path in files}
    for secret in forms:
        assert not [path for path, content in written.items() if secret in content]
        assert not [text for text in sweep.said if secret in text.encode()]
        assert not [arguments for arguments in seen if secret in arguments]
    assert any(b"HPOCTL_TRIAL=" in content for content in written.values())
    assert any(b"hpoctl" in arguments and b"worker" in arguments for arguments in seen)
