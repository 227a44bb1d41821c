"""What follows a search: confirm and train, each a study of its own that any kill leaves whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Hpoctl
from killing import HARNESS

from hpoctl import config, rundir
from hpoctl.plan import queue
from hpoctl.record import WorkerRecord
from hpoctl.rundir import Run, RunDir
from hpoctl.study import store
from hpoctl.study.location import locate
from hpoctl.words import BackendName, Mode
from integration.conftest import MakeSweep, write

SWEEP: dict[str, object] = {
    "study": "a-study",
    "objective": "hpoctl.objectives.toy",
    "metrics": [{"name": "loss"}],
    "search_space": {"x": {"type": "categorical", "values": [3, 4, 5, 7]}},  # 3 is best
    "sampler": "grid",
    "backend": "local",
    "storage": {"sqlite": "study.db"},
}
OBJECTIVE = """
import json
from pathlib import Path

def objective(trial):
    if trial.args.get("final"):
        (trial.dir / "model").mkdir(exist_ok=True)
        (trial.dir / "model" / "weights.json").write_text(json.dumps(trial.params))
    return {"loss": abs(trial.params["x"] - 3), "kept": 1.5}
"""


def search(
    hpoctl: Hpoctl,
    values: Sequence[float | Sequence[float]] = (0.01, 1.0, 4.0, 16.0),
    **changes: object,
) -> None:
    """A finished grid of four trials; trial 0 is the best, then 1, 2 and 3. No worker has run."""
    tree = {**SWEEP, "objective_args": {"noise": 0.01}, **changes}
    write(hpoctl.folder / "sweep.yaml", tree)
    sweep = config.load(hpoctl.folder / "sweep.yaml")
    run_dir = RunDir(hpoctl.folder / "runs" / "a-study")
    where = locate(sweep.storage, workdir=hpoctl.folder, journal=run_dir.journal, environ={})
    study = store.create(where, sweep, queue(sweep), owner=str(run_dir.path))
    worker = study.sign_on(WorkerRecord(task="1_0", node="n", pid=1, gpus=0, started_at=1.0))
    for value in values:
        claim = study.claim(worker)
        assert claim is not None
        study.complete(claim, [value] if isinstance(value, float) else value, {})
    study.check_in(replace(worker, ended_at=2.0, trials=len(values)))
    run = Run(
        study="a-study",
        mode=Mode.ASYNC,
        backend=BackendName.LOCAL,
        trials=sweep.trials,
        arrays=(),
        overrides=(),
        workdir=hpoctl.folder,
        created_at=time.time(),
        gist=sweep.gist,
    )
    run_dir.create((hpoctl.folder / "sweep.yaml").read_text(), run)
    rundir.remember(run_dir, hpoctl.environ)


def answer(hpoctl: Hpoctl, *args: str, code: int = 0) -> dict[str, Any]:
    done = hpoctl(*args, "--json", timeout_s=120, code=code)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_winners_run_again_with_the_same_seeds_and_are_compared(hpoctl: Hpoctl) -> None:
    search(hpoctl)
    command = ("confirm", "a-study", "--top", "3", "--seeds", "3")
    began = answer(hpoctl, *command)
    assert [winner["trial"] for winner in began["winners"]] == [0, 1, 2]
    assert [array["tasks"] for array in began["arrays"]] == [1]
    done = answer(hpoctl, *command, "--wait")
    assert (done["unfinished"], done["failed"], done["order_holds"]) == (0, 0, True)
    first, second = done["winners"][:2]
    assert first["again"]["n"] == 3
    assert first["again"]["low"] < first["again"]["mean"] < first["again"]["high"]
    assert first["searched"] != first["values"][0]
    # The toy's noise is the seed's alone: with the same seeds nothing of it is left.
    assert second["behind"]["mean"] == pytest.approx(1.0)
    assert second["behind"]["high"] - second["behind"]["low"] < 1e-9
    trials = json.loads(hpoctl("trials", "a-study-confirm", "--json").stdout)
    seeds = [trial["attrs"]["seed"] for trial in trials]
    assert seeds[0:3] == [seeds[0]] * 3
    assert done["drawn"] == seeds[::3]
    assert done["interval"] == {"kind": "student-t", "level": 0.95}
    assert len(set(seeds)) == 3
    searched = json.loads(hpoctl("trials", "a-study", "--json").stdout)
    assert not {trial["attrs"]["seed"] for trial in searched} & set(seeds)
    table = hpoctl("confirm", "a-study-confirm").stdout  # by either name
    assert "the order of the search holds: trial 0 is ahead of all others" in table
    assert table in hpoctl("report", "a-study-confirm").stdout
    report = answer(hpoctl, "report", "a-study-confirm")
    assert report["confirmation"]["order_holds"] is True
    assert "confirmation" not in answer(hpoctl, "report", "a-study")


def test_another_confirmation_needs_another_name(hpoctl: Hpoctl) -> None:
    search(hpoctl)
    hpoctl("confirm", "a-study", "--trials", "1,3", "--seeds", "1", "--wait", timeout_s=120)
    refused = hpoctl("confirm", "a-study", "--seeds", "4", code=2).stderr
    assert refused == (
        "hpoctl: study 'a-study-confirm' runs trials 1, 3 with 1 seeds already: give no --top,"
        " --trials, --by or --seeds to see it, or another --name\n"
    )
    other = answer(hpoctl, "confirm", "a-study", "--seeds", "2", "--name", "more", "--wait")
    assert [winner["again"]["n"] for winner in other["winners"]] == [2, 2, 2]
    assert Path(other["run_dir"]).name == "a-study-more"


def test_what_cannot_be_confirmed_is_refused_and_leaves_nothing(hpoctl: Hpoctl) -> None:
    search(hpoctl, values=())
    assert "no complete trial" in hpoctl("confirm", "a-study", code=4).stderr
    assert "there is no trial 9" in hpoctl("confirm", "a-study", "--trials", "9", code=4).stderr
    both = hpoctl("confirm", "a-study", "--trials", "1", "--top", "2", code=2).stderr
    assert "exclude each other" in both
    assert [path.name for path in (hpoctl.folder / "runs").iterdir()] == ["a-study"]


def test_a_dry_run_prints_a_sweep_file_and_writes_nothing(hpoctl: Hpoctl) -> None:
    search(hpoctl)
    before = sorted(hpoctl.folder.rglob("*"))
    text = hpoctl("confirm", "a-study", "--dry-run").stdout
    assert sorted(hpoctl.folder.rglob("*")) == before
    mine = hpoctl.folder / "mine.yaml"
    mine.write_text(text.replace("a-study-confirm", "by-hand"))
    assert "15 trials" in hpoctl("check", mine).stdout
    assert "exclude" not in hpoctl("train", "a-study", "--dry-run").stderr


@pytest.mark.parametrize(
    "point",
    [
        ("hpoctl.study.relational", "RelationalStore.fill", "after", "1"),
        ("hpoctl.rundir", "RunDir.append", "after", "1"),
    ],
    ids=lambda point: " ".join(point[1:3]),
)
def test_a_killed_confirm_goes_on_with_the_same_winners(
    hpoctl: Hpoctl, point: tuple[str, ...]
) -> None:
    search(hpoctl)
    killed = subprocess.run(
        [sys.executable, "-c", HARNESS, *point, "confirm", "a-study", "--seeds", "2"],
        cwd=hpoctl.folder,
        env={**os.environ, **hpoctl.environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = answer(hpoctl, "confirm", "a-study", "--wait")
    assert [winner["again"]["n"] for winner in done["winners"]] == [2, 2, 2]
    trials = json.loads(hpoctl("trials", "a-study-confirm", "--json").stdout)
    assert [trial["params"]["x"] for trial in trials] == [3, 4, 5, 3, 4, 5]


def test_a_failed_repetition_counts_once_it_was_repeated(hpoctl: Hpoctl) -> None:
    search(hpoctl)
    hpoctl(
        "confirm",
        "a-study",
        "--seeds",
        "3",
        "--wait",
        "--set",
        "objective_args.fail=0.5",
        timeout_s=120,
    )
    some = answer(hpoctl, "confirm", "a-study")
    assert 0 < some["failed"] < 9
    run_dir = Path(some["run_dir"])
    text = (run_dir / "sweep.yaml").read_text()
    (run_dir / "sweep.yaml").write_text(text.replace("fail: 0.5", "fail: 0"))
    hpoctl("retry", "a-study-confirm", "--workers", "1")
    all_ = answer(hpoctl, "confirm", "a-study", "--wait")
    assert all_["failed"] == 0
    assert [winner["again"]["n"] for winner in all_["winners"]] == [3, 3, 3]


def test_a_confirmation_on_slurm_is_one_array(make_sweep: MakeSweep) -> None:
    sweep = make_sweep(
        "postgresql",
        mode="async",
        workers=2,
        sampler="grid",
        search_space=SWEEP["search_space"],
        budget=None,
    )
    sweep.submit()
    sweep.await_finished(4)
    began = sweep.ask_json("confirm", "a-study", "--top", "2", "--seeds", "2", "--workers", "4")
    [array] = began["arrays"]
    assert array["tasks"] == 4
    done = sweep.ask_json("confirm", "a-study", "--wait")
    assert [winner["again"]["n"] for winner in done["winners"]] == [2, 2]
    sweep.await_tasks([array["id"]], 4)
    tasks = {trial["attrs"]["task"] for trial in sweep.ask_json("trials", "a-study-confirm")}
    assert tasks <= {f"{array['id']}_{i}" for i in range(4)}


def own(hpoctl: Hpoctl) -> None:
    """A search with an objective of the user's, beside the sweep file."""
    (hpoctl.folder / "mine.py").write_text(OBJECTIVE)
    search(hpoctl, objective="mine", objective_args={})


def test_the_final_model_is_kept_with_its_card(hpoctl: Hpoctl) -> None:
    own(hpoctl)
    began = answer(hpoctl, "train", "a-study", "-o", "final")
    assert (began["folder"], began["trials"]) == (None, [0])
    done = answer(hpoctl, "train", "a-study", "--wait")  # where it goes is remembered
    folder = hpoctl.folder / "final"
    assert done["folder"] == str(folder)
    assert done["final"] == {"loss": 0.0, "kept": 1.5}
    assert json.loads((folder / "weights.json").read_text()) == {"x": 3}
    card = (folder / "README.md").read_text()
    assert "| loss | 0.01 | 0 |" in card
    assert "trial 0 of the study `a-study`" in card
    assert json.loads((folder / "provenance.json").read_text())["trial"] == 0
    # Once more is harmless, from the final study's name too.
    assert answer(hpoctl, "train", "a-study-final", "-o", "final")["folder"] == str(folder)


def test_another_trial_may_be_trained(hpoctl: Hpoctl) -> None:
    own(hpoctl)
    done = answer(hpoctl, "train", "a-study", "--trial", "2", "--wait")
    assert done["training"] == "a-study-final-2"
    weights = Path(done["folder"]) / "weights.json"
    assert json.loads(weights.read_text()) == {"x": 5}


def test_the_winner_of_a_confirmation_is_trained(hpoctl: Hpoctl) -> None:
    own(hpoctl)
    hpoctl("confirm", "a-study", "--trials", "1,3", "--seeds", "1", "--wait", timeout_s=120)
    done = answer(hpoctl, "train", "a-study-confirm", "--wait")
    assert (done["study"], done["trials"]) == ("a-study", [1])


def test_what_cannot_be_trained_is_refused(hpoctl: Hpoctl) -> None:
    own(hpoctl)
    (hpoctl.folder / "mine.txt").write_text("mine")
    full = hpoctl("train", "a-study", "-o", ".", code=2).stderr
    assert "holds something already" in full
    ensemble = hpoctl("train", "a-study", "--ensemble", "2", code=2).stderr
    assert "hpoctl.objectives.causal_lm only" in ensemble
    assert (
        "exclude each other" in hpoctl("train", "a-study", "--best", "--trial", "1", code=2).stderr
    )
    assert not list((hpoctl.folder / "runs").glob("a-study-*"))


def test_a_final_training_that_fails_says_why(hpoctl: Hpoctl) -> None:
    own(hpoctl)
    (hpoctl.folder / "mine.py").write_text("def objective(trial):\n    return 1 / 0\n")
    failed = hpoctl("train", "a-study", "--wait", code=4, timeout_s=120).stderr
    assert "trial 0 of 'a-study-final' is failed: ZeroDivisionError: division by zero" in failed
    assert "hpoctl retry a-study-final --workers 1" in failed
