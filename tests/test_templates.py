"""Every starter file is run as a new user would run it, only shorter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def hpoctl(folder: Path, *words: str) -> str:
    """What a command says in this folder; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "hpoctl", *words],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SHORTER = {
    "starter": (),
    "command": (),
    "lightning": ("objective_args.epochs=2",),
    "pytorch": ("objective_args.steps=40",),
}


@pytest.mark.parametrize("template", SHORTER)
def test_a_template_runs_as_it_was_written(template: str, tmp_path: Path) -> None:
    hpoctl(tmp_path, "init", "--template", template)
    assert "note: objective" not in hpoctl(tmp_path, "check", "sweep.yaml")
    changes = ("budget.trials=3", "workers=1", *SHORTER[template])
    flags = [word for change in changes for word in ("--set", change)]
    ended = json.loads(hpoctl(tmp_path, "run", "sweep.yaml", "--json", *flags))
    counts = ended["counts"]
    assert counts["complete"] + counts["pruned"] == 3
    assert ended["best"]["values"]
