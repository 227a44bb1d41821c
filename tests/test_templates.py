"""Every starter file is run as a new user would run it, only shorter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from base_model import make_model

# As in a shell where the environment is activated: templates call `python`.
ACTIVATED = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def hpoctl(folder: Path, *words: str) -> str:
    """What a command says in this folder; it must end well."""
    done = subprocess.run(
        [sys.executable, "-m", "hpoctl", *words],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), "PATH": ACTIVATED},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SHORTER = {
    "starter": (),
    "trainer": (),
    "command": (),
    "lora": (
        "objective_args.model.pretrained=../base/runs/base/trials/00000/model",
        "objective_args.dataset.max_length=32",
        "objective_args.training={max_steps: 3}",
    ),
    "scratch": (
        "objective_args.dataset.max_blocks=200",
        "objective_args.training.rungs=[1, 2]",
        "search_space.model.hidden_size.values=[12, 24]",
        "search_space.model.num_layers.max=2",
    ),
    "lightning": ("objective_args.epochs=2",),
    "pytorch": ("objective_args.steps=40",),
}


def bring(template: str, folder: Path) -> None:
    """What a template takes for granted: the user's text, and a model (on disk, not on a hub)."""
    if template != "lora":
        return
    rows = (json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)[:10])
    (folder / "train.jsonl").write_text("".join(rows))
    make_model(folder.parent / "base")


@pytest.mark.parametrize("template", SHORTER)
def test_a_template_runs_as_it_was_written(template: str, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    hpoctl(tmp_path, "init", "mine", "--template", template)
    bring(template, folder)
    assert "note: objective" not in hpoctl(folder, "check", "sweep.yaml")
    changes = ("budget.trials=3", "workers=1", *SHORTER[template])
    flags = [word for change in changes for word in ("--set", change)]
    ended = json.loads(hpoctl(folder, "run", "sweep.yaml", "--json", *flags))
    counts = ended["counts"]
    assert counts["complete"] + counts["pruned"] == 3
    assert ended["best"]["values"]
