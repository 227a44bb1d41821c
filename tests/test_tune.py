"""The course text's flags: what they become, and what is said of those that cannot be."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from base_model import make_model

from hpoctl import config

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
        return self.hpoctl("tune", *words, *flags)

    def hpoctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hpoctl", *words],
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


def test_flags_of_the_course_text_tune_a_model(desk: Desk) -> None:
    rows = [json.dumps({"text": topics[name]}) + "\n" for name in sorted(topics)[:12]]
    (desk.folder / "train.jsonl").write_text("".join(rows[:10]))
    (desk.folder / "val.jsonl").write_text("".join(rows[10:]))
    done = desk.tune(
        *("--num_trials", "3", "--pruning_factor", "2.0", "--parallel-trials", "2"),
        *("--memory_constraint", "16", "--time-budget-hours", "0.5"),
        *("--optimization_objective", "multi:eval_loss,eval_accuracy"),
        *("--optimization_weights", "0.7,0.3"),
        *("--set", "objective_args.training={max_steps: 3}"),
        *("--set", "objective_args.dataset.max_length=32"),
        base_model=str(make_model(desk.folder / "base")),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Best hyperparameter configuration:\n{")
    assert "(lower is better)" in done.stdout
    report = desk.folder / "out" / "report"
    for name in ("best_config.yaml", "trials_summary.csv", "optimization_plot.png", "index.html"):
        assert (report / name).stat().st_size
    assert {path.name for path in (desk.folder / "out" / "trial_results").iterdir()} == {
        f"trial_{number}" for number in range(3)
    }
    with (report / "trials_summary.csv").open(newline="") as file:
        rows_of = list(csv.DictReader(file))
    assert {row["state"] for row in rows_of} <= {"complete", "pruned"}
    assert all(row["memory_gb"] for row in rows_of if row["state"] == "complete")
    sweep = config.load(desk.folder / "out" / "sweep.yaml")
    assert sweep.trials == 3
    assert [metric.weight for metric in sweep.metrics] == [0.7, 0.3]
    assert sweep.objective_args["training"] == {"max_steps": 3}, "the file says what --set did"
    assert "# a comment of mine" in (desk.folder / "out" / "sweep.yaml").read_text()
    again = desk.hpoctl("check", "out/sweep.yaml")
    assert again.returncode == 0, again.stderr


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
