"""What follows a search with several metrics: winners of its front, by a rule that is said."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Hpoctl

from integration.test_after import search

# Of a, b, c, d the first three are on the front; b is the compromise, d is beaten by b.
OBJECTIVE = """
VALUES = {"a": (1.0, 9.0), "b": (2.0, 2.0), "c": (9.0, 1.0), "d": (3.0, 3.0)}

def objective(trial):
    return dict(zip(("loss", "size"), VALUES[trial.params["x"]]))
"""


def answer(hpoctl: Hpoctl, *args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hpoctl(*args, "--json", timeout_s=120).stdout)
    return found


@pytest.fixture
def searched(hpoctl: Hpoctl) -> Hpoctl:
    """A study of four trials and two metrics, which has ended."""
    (hpoctl.folder / "mine.py").write_text(OBJECTIVE)
    search(
        hpoctl,
        values=[(1.0, 9.0), (2.0, 2.0), (9.0, 1.0), (3.0, 3.0)],
        objective="mine",
        metrics=[{"name": "loss"}, {"name": "size"}],
        search_space={"x": {"type": "categorical", "values": ["a", "b", "c", "d"]}},
    )
    return hpoctl


def winners(hpoctl: Hpoctl, *flags: str) -> list[str]:
    """The points that a confirmation would run again, by their order."""
    text = hpoctl("confirm", "a-study", "--dry-run", *flags).stdout
    points = text.partition("points:")[2].partition("seed")[0]
    return [line.split(":")[1].strip() for line in points.splitlines() if "x:" in line]


def test_winners_are_those_of_the_front_by_the_named_rule(searched: Hpoctl) -> None:
    assert winners(searched, "--by", "loss") == ["a", "b", "c"]
    assert winners(searched, "--by", "size", "--top", "2") == ["c", "b"]
    assert winners(searched, "--by", "compromise", "--top", "1") == ["b"]
    done = answer(
        searched, "confirm", "a-study", "--by", "size", "--top", "2", "--seeds", "2", "--wait"
    )
    assert done["metric"] == "size"
    assert [winner["searched"] for winner in done["winners"]] == [1.0, 2.0]
    assert [winner["again"]["mean"] for winner in done["winners"]] == [1.0, 2.0]
    # Asked by the confirmation's name, or with another rule.
    assert answer(searched, "confirm", "a-study-confirm")["metric"] == "size"
    assert "another --name" in searched("confirm", "a-study", "--by", "loss", code=2).stderr


def test_a_final_model_is_of_the_fronts_best_by_the_named_rule(searched: Hpoctl) -> None:
    done = answer(searched, "train", "a-study", "--by", "size", "--wait")
    assert (done["training"], done["trials"]) == ("a-study-final-size", [2])
    assert done["final"] == {"loss": 9.0, "size": 1.0}
    assert answer(searched, "train", "a-study-final-size")["folder"] == done["folder"]
    other = answer(searched, "train", "a-study", "--best", "--by", "compromise")
    assert (other["training"], other["trials"]) == ("a-study-final-compromise", [1])


def test_without_a_rule_the_way_out_is_named(searched: Hpoctl) -> None:
    for command in (["confirm", "a-study"], ["train", "a-study", "--best"]):
        [said] = searched(*command, code=2).stderr.splitlines()
        assert "'a-study' has 2 metrics, and no single order: give --by loss" in said
        assert "--by compromise" in said
        assert "'hpoctl best a-study'" in said
    unknown = searched("train", "a-study", "--by", "lose", code=2).stderr
    assert unknown == "hpoctl: --by lose: study 'a-study' compares by loss, size, compromise\n"
    both = searched("train", "a-study", "--by", "loss", "--trial", "1", code=2).stderr
    assert "exclude each other" in both


def test_fit_needs_no_rule(searched: Hpoctl) -> None:
    fitted = answer(searched, "fit", "sweep.yaml", "--corners", "2")
    assert [corner["state"] for corner in fitted["corners"]] == ["complete"] * 2
