"""The model card, and where it gets its facts from."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from pathlib import Path

from hpoctl.card import Card, FromHub, Member, commit_of, data_files, from_hub

CARD = Card(
    title="letters-final",
    study="letters",
    trial=7,
    trials=24,
    name="letters-final",
    number=0,
    objective="hpoctl.objectives.causal_lm",
    searched={"eval_loss": 3.25, "kl": 0.5},
    final={"eval_loss": 3.5},
    chosen_by="`eval_loss` (less is better)",
    test_split=True,
    language_model=True,
    base=None,
    base_on_hub=False,
    adapter=False,
    params="lr: 0.01\n",
    settings="training:\n  max_steps: 500\n",
    data="path: data/train.jsonl\n",
    files=(),
    seed=12,
    version="0.1.0",
    commit=None,
    date="2026-01-02 03:04 UTC",
)


def test_a_card_tells_results_and_provenance() -> None:
    text = CARD.text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    for line in (
        "| eval_loss | 3.25 | 3.5 |",
        "| kl | 0.5 |  |",
        "| study | `letters`, 24 trials |",
        "| trained as | trial 0 of `letters-final`, seed 12 |",
        "The search chose by `eval_loss` (less is better). Its own column is too good for that"
        " reason; the test split took no part in any choice.",
        "It began with random weights.",
        "  max_steps: 500",
        "| git commit | none |",
        "lr: 0.01",
        "path: data/train.jsonl",
    ):
        assert line in text.splitlines(), text


def test_the_card_of_an_ensemble_lists_its_members() -> None:
    members = (Member(folder="member-0", trial=7, params="lr 0.01", loss=3.5, accuracy=0.25),)
    text = replace(CARD, members=members).text()
    assert "| member-0 | 7 | lr 0.01 | 3.5 | 0.25 |" in text.splitlines()
    assert "averaged" in text


def test_a_card_says_what_a_model_began_as() -> None:
    tuned = replace(CARD, base="someone/small", base_on_hub=True, adapter=True)
    for base in ("someone/small", "someone/small@v1", "someone/small/x.gguf"):
        assert "\nbase_model: someone/small\n" in replace(tuned, base=base).text()
    assert "merged into the weights here: no peft is needed" in tuned.text()
    here = replace(CARD, base="/models/small").text()
    assert "base_model" not in here  # it would be looked for on the hub
    assert "It began as `/models/small`." in here


def test_the_card_of_another_objective_speaks_of_no_language_model() -> None:
    text = replace(CARD, language_model=False, test_split=False).text()
    assert "transformers" not in text
    assert "random weights" not in text


def test_what_came_from_a_hub_is_told_with_its_commit(tmp_path: Path) -> None:
    assert from_hub(tmp_path) == ()
    (tmp_path / "hub.json").write_text('{"model": {"name": "acme/tiny@v1", "commit": "abc"}}')
    found = from_hub(tmp_path)
    assert found == (FromHub(kind="model", name="acme/tiny@v1", commit="abc"),)
    shown = replace(CARD, hub=found).text().splitlines()
    assert "| model | `acme/tiny@v1`, commit `abc` |" in shown
    row = shown.index("| model | `acme/tiny@v1`, commit `abc` |")
    assert shown[row + 1] == "| hpoctl | 0.1.0 |"


def test_data_files_are_hashed_and_folders_are_not(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a b c")
    (tmp_path / "folder").mkdir()
    dataset = {"train": "train.txt", "validation": "folder", "hub": "someone/text"}
    [found] = data_files(dataset, tmp_path)
    assert found.path == "train.txt"
    assert found.sha256 == hashlib.sha256(b"a b c").hexdigest()


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_is_gits_also_where_it_is_packed_or_a_work_tree(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None
    here = tmp_path / "repository"
    here.mkdir()
    git(here, "init", "--quiet")
    git(here, "commit", "--quiet", "--allow-empty", "--message", "first")
    head = git(here, "rev-parse", "HEAD")
    (here / "below").mkdir()
    assert commit_of(here / "below") == head
    git(here, "pack-refs", "--all")
    assert commit_of(here) == head
    git(here, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert commit_of(tmp_path / "tree") == head
    git(here, "checkout", "--quiet", "--detach")
    assert commit_of(here) == head
