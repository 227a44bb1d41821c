"""Every starter file is run as a new user would run it, only shorter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from base_model import make_model
from objectives.conftest import FakeTrial

from hpoctl.failures import TrialFailed
from hpoctl.kin import children
from hpoctl.objectives import command
from hpoctl.trial import Checkpointed

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


# As a program each, so that it can be killed: `run` makes one of an objective.
RUN = "import train; train.prepare({}); from hpoctl.integrations import run; run(train.objective)"
STRIKE = """\
  case $HPOCTL_ATTEMPT$step in
    12) kill -KILL $$ ;;
    22) until [[ -e $HPOCTL_CHECKPOINT ]]; do sleep 0.05; done ;;
  esac
  echo "$step $loss" >"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A template's program, how it is called, and the steps that it reports."""

    words: Sequence[str]
    params: Mapping[str, object] = field(default_factory=dict)
    args: Mapping[str, object] = field(default_factory=dict)
    metric: str
    steps: Sequence[int]


PROGRAMS = {
    "pytorch": Program(
        words=(sys.executable, "-c", RUN),
        params={"learning_rate": 0.01, "hidden_size": 8, "batch_size": 16},
        args={"steps": 100},
        metric="loss",
        steps=[20, 40, 60, 80, 100],
    ),
    "lightning": Program(
        words=(sys.executable, "-c", RUN),
        params={"learning_rate": 0.01, "hidden_size": 8, "batch_size": 32},
        args={"epochs": 4},
        metric="val_loss",
        steps=[13, 26, 39, 52],
    ),
    "trainer": Program(
        words=(sys.executable, "train.py"),
        params={"learning_rate": 0.01, "hidden_size": 32, "batch_size": 8},
        metric="eval_loss",
        steps=[10, 20, 30, 40, 50],
    ),
    "command": Program(
        words=("bash", "train.sh", "--rate", "0.01", "--layers", "3", "--out", "{trial.dir}"),
        metric="loss",
        steps=[1, 2, 3],
    ),
}


@dataclass(kw_only=True)
class Killing(FakeTrial):
    """A trial whose program is killed while it reports this step."""

    others: set[int]
    at: int

    def report(self, value: float, step: int, **extra: float) -> None:
        super().report(value, step, **extra)
        if step == self.at:
            for program in children() - self.others:
                os.kill(program, signal.SIGKILL)


@pytest.mark.parametrize("template", PROGRAMS)
def test_a_trial_goes_on_after_a_kill_and_after_it_was_asked_to_save_itself(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, folder = PROGRAMS[template], tmp_path / "trial"
    hpoctl(tmp_path, "init", "mine", "--template", template)
    monkeypatch.chdir(tmp_path / "mine")
    folder.mkdir()
    if template == "command":  # it waits for no answer, so it strikes itself
        script = Path("train.sh")
        script.write_text(script.read_text().replace('  echo "$step $loss" >', STRIKE))
    objective = command.runner(program.words, [program.metric])
    own: dict[str, Any] = {"dir": folder, "params": program.params, "args": program.args}
    killed = Killing(**own, others=children(), at=program.steps[1])
    with pytest.raises(TrialFailed, match="signal 9"):
        objective(killed)
    asked = FakeTrial(**own, attempt=2, ends=True)
    if template != "trainer":  # test_integrations asks a Trainer; each start takes its seconds
        with pytest.raises(Checkpointed):
            objective(asked)
    last = FakeTrial(**own, attempt=3)
    outcome = objective(last)
    assert isinstance(outcome, Mapping)
    assert outcome[program.metric] == pytest.approx(last.values[program.steps[-1]])
    assert min({**asked.values, **last.values}) > program.steps[0]  # nothing was begun anew
    assert sorted({**killed.values, **asked.values, **last.values}) == program.steps
