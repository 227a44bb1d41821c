"""The course text's flags: what they become, and what is said of those that cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

SPACE = """\
# a comment of mine
training:
  learning_rate:
    type: "log_uniform"
    min: 1e-4
    max: 1e-2
lora:
  r: {type: categorical, values: [2, 4]}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A folder with the three files that `tune` reads."""

    folder: Path

    def tune(self, *flags: str, **changed: str) -> subprocess.CompletedProcess[str]:
        given = {
            "--base_model": "mine",
            "--train_file": "train.jsonl",
            "--validation_file": "val.jsonl",
            "--output_dir": "out",
            "--search_space": "space.yaml",
            **{f"--{name}": value for name, value in changed.items()},
        }
        words = [word for pair in given.items() for word in pair]
        return subprocess.run(
            [sys.executable, "-m", "hpoctl", "tune", *words, *flags],
            cwd=self.folder,
            env={**os.environ, "XDG_STATE_HOME": str(self.folder / "state")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def refusal(self, *flags: str, **changed: str) -> str:
        """What is said of flags that cannot be; nothing is left behind."""
        done = self.tune(*flags, **changed)
        assert done.returncode == 2, done.stderr
        assert not (self.folder / "out").exists()
        assert len(done.stderr.splitlines()) == 1
        return done.stderr.removeprefix("hpoctl: ").rstrip()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "space.yaml").write_text(SPACE)
    for name in ("train", "val"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    return Desk(folder=tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"train_file": "no.jsonl"}, "no.jsonl: no such file"),
        ({"optimization_objective": "eval_los"}, "'eval_los' is not measured; did you mean"),
        ({"optimization_objective": "eval_loss,kl"}, "for several write 'multi:eval_loss,kl'"),
        ({"optimization_weights": "0.7,0.3"}, "are for several objectives, 'multi:a,b'"),
        ({"pruning_factor": "1.5"}, "is 1.5: give a whole number from 2 on"),
    ],
)
def test_flags_that_cannot_be_are_named_with_the_way_out(
    changed: dict[str, str], said: str, desk: Desk
) -> None:
    assert said in desk.refusal(**changed)


def test_weights_and_objectives_are_counted(desk: Desk) -> None:
    several = {"optimization_objective": "multi:eval_loss,eval_accuracy"}
    assert "1 weights for 2 objectives" in desk.refusal(**several, optimization_weights="1")
    assert "write 0.7,0.3" in desk.refusal(**several, optimization_weights="a,b")
    assert "give --optimization-weights" in desk.refusal(**several, pruning_factor="2")


def test_a_mistake_in_the_search_space_is_named_with_its_own_line(desk: Desk) -> None:
    (desk.folder / "space.yaml").write_text(SPACE.replace("max: 1e-2", "mx: 1e-2"))
    said = desk.refusal()
    assert said.startswith("space.yaml:6: training.learning_rate.mx: unknown key; did you mean")
    (desk.folder / "space.yaml").write_text("")
    assert desk.refusal().startswith("space.yaml:1: ")


def test_a_folder_that_holds_another_run_is_left_alone(desk: Desk) -> None:
    (desk.folder / "out").mkdir()
    (desk.folder / "out" / "sweep.yaml").write_text("study: somebody's\n")
    done = desk.tune()
    assert done.returncode == 2
    assert "give another --output-dir" in done.stderr
    assert (desk.folder / "out" / "sweep.yaml").read_text() == "study: somebody's\n"


def test_what_lies_in_the_folder_outlives_a_submission_that_fails(desk: Desk) -> None:
    (desk.folder / "out").mkdir()
    (desk.folder / "out" / "thesis.tex").write_text("years of work")
    done = desk.tune("--backend", "slurm", "--set", "resources.partition=none")
    assert done.returncode != 0
    assert (desk.folder / "out" / "thesis.tex").read_text() == "years of work"
