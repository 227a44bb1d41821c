"""Workers and trials that violate a constraint, use up their memory, or cannot be at all."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Hpoctl
from workplace import open_workplace

from hpoctl.record import TrialState

SIX = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 6}}\n"

LIMITED = """
def objective(trial):
    a = trial.params["a"]
    found = {"loss": -a, "memory_gb": 2.0 * a, "speed": 100 - a, "more": 1.5}
    if a == 6:
        del found["speed"]
    if a == 5:
        found["speed"] = float("nan")
    return found
"""
LIMITS = (
    "metrics: [{name: loss}]\nconstraints: [{name: memory_gb, max: 5}, {name: speed, min: 9}]\n"
)


def test_the_best_trial_keeps_the_constraints_and_the_others_say_by_how_much_not(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    place = open_workplace(tmp_path, LIMITED, f"{SIX}{LIMITS}")
    place.work()
    assert place.counts() == {TrialState.COMPLETE: 4, TrialState.FAILED: 2}
    records = place.records()
    assert [record.feasible for record in records] == [True, True, False, False, True, True]
    assert records[2].constraints == {"memory_gb": 1.0, "speed": -88.0}
    assert "'speed' is NaN, and a constraint names it" in str(records[4].attrs["error"])
    assert records[4].attrs["cause"] == "nan"
    assert "no 'speed', which a constraint names" in str(records[5].attrs["error"])

    best = json.loads(hpoctl("best", place.run_dir.path, "--json").stdout)
    assert best == {"number": 1, "values": [-2.0], "params": {"a": 2}}
    status = json.loads(hpoctl("status", place.run_dir.path, "--json").stdout)
    assert status["infeasible"] == 2
    assert status["best"]["number"] == 1
    assert status["best"]["shown"] == {"memory_gb": 4.0, "speed": 98.0}
    shown = hpoctl("status", place.run_dir.path).stdout
    assert "2 of these infeasible" in shown
    assert "loss -2 (memory_gb 4, speed 98) in trial 1: a 2" in shown
    table = hpoctl("trials", place.run_dir.path).stdout
    assert "violates" in table
    assert "memory_gb +3" in table
    trials = json.loads(hpoctl("trials", place.run_dir.path, "--json").stdout)
    assert [trial["feasible"] for trial in trials] == [True, True, False, False, True, True]
    hpoctl("report", place.run_dir.path)
    rows = (place.run_dir.report / "trials_summary.csv").read_text().splitlines()
    assert rows[0].startswith("number,state,feasible,loss,a,")
    assert rows[3].startswith("2,complete,false,-3.0,3,")
    page = (place.run_dir.report / "index.html").read_text()
    assert "violates memory_gb +1" in page
    assert "memory_gb at most 5" in page


UNUSABLE = """
from hpoctl.trial import Infeasible
def objective(trial):
    a = trial.params["a"]
    if a % 3:
        raise ValueError("wrapped") from Infeasible(f"{a} is not divisible by 3")
    return float(a)
"""


def test_an_objective_says_that_its_parameters_cannot_be_used(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    place = open_workplace(tmp_path, UNUSABLE, f"{SIX}stop_after: 2\n")
    printed = place.work()
    assert place.counts() == {TrialState.COMPLETE: 2, TrialState.PRUNED: 4}
    assert "trial 0 infeasible, infeasible: ValueError: wrapped" in printed
    first = place.records()[0]
    assert first.constraints == {"infeasible": 1.0}
    assert first.attrs["cause"] == "infeasible"
    assert json.loads(hpoctl("status", place.run_dir.path, "--json").stdout)["infeasible"] == 4
    failures = json.loads(hpoctl("failures", place.run_dir.path, "--json").stdout)["failures"]
    assert [(f["cause"], f["count"]) for f in failures] == [("infeasible", 4)]


NEVER = """
from hpoctl.trial import Infeasible
def objective(trial):
    raise Infeasible(f"{trial.params['a']} heads do not fit")
"""


def test_a_sweep_in_which_nothing_is_feasible_stops_itself_and_says_why(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    forty = "sampler: grid\nsearch_space: {a: {type: int, min: 1, max: 40}}\n"
    place = open_workplace(tmp_path, NEVER, forty)
    place.work()
    assert place.counts() == {TrialState.PRUNED: 30, TrialState.WAITING: 10}
    said = hpoctl("status", place.run_dir.path).stdout
    why = "30 trials in a row were infeasible, the last one by: Infeasible: 30 heads do not fit"
    assert f"stopped  itself: {why}" in said
    refused = hpoctl("best", place.run_dir.path, code=4).stderr
    assert "has no best trial yet: 30 trials violate a constraint" in refused


HUNGRY = """
class OutOfMemoryError(RuntimeError): pass
def objective(trial):
    a = trial.params["a"]
    if a < 3:
        block = bytearray(200 * 2**20)
        raise MemoryError("no more")
    if a < 5:
        raise OutOfMemoryError("CUDA out of memory")
    return {"loss": 1.0}
"""


def test_who_runs_out_of_memory_leaves_its_peak_and_violates_its_limit(tmp_path: Path) -> None:
    limits = "constraints: [{name: host_memory_gb, max: 0.125}]\nmetrics: [{name: loss}]\n"
    place = open_workplace(tmp_path, HUNGRY, f"{SIX}{limits}")
    place.work()
    records = place.records()
    for record in records[:2]:
        assert record.state is TrialState.PRUNED
        peak = record.attrs["host_memory_gb"]
        assert isinstance(peak, float)
        assert 0.2 < peak < 4
        assert record.constraints["host_memory_gb"] == peak - 0.125
    for record in records[2:4]:
        assert record.constraints == {"infeasible": 1.0}, "no limit of GPU memory was given"
    for record in records[4:]:  # measured, as the objective did not return it
        assert record.state is TrialState.COMPLETE
        peak = record.attrs["host_memory_gb"]
        assert isinstance(peak, float)
        assert record.constraints == {"host_memory_gb": peak - 0.125}


WEIGHED = """
def objective(trial):
    a = trial.params["a"]
    trial.report(a / 10, 1)
    trial.report(a, 2, acc=0.5)
    return {"loss": a, "acc": 0.5 * a, "more": 2.0}
"""
WEIGHTS = "metrics: [{name: loss, weight: 2}, {name: acc, goal: maximize, weight: 3}]\n"


def test_weighted_metrics_are_compared_by_their_sum_and_each_is_kept(
    tmp_path: Path, hpoctl: Hpoctl
) -> None:
    place = open_workplace(tmp_path, WEIGHED, f"{SIX}{WEIGHTS}")
    place.work()
    record = place.records()[3]
    assert record.values == (2 * 4 - 3 * 2.0,)
    assert (record.attrs["loss"], record.attrs["acc"], record.attrs["more"]) == (4.0, 2.0, 2.0)
    assert record.steps == {2: 2 * 4 - 3 * 0.5}, "the first report does not say all"
    noted = (place.run_dir.trial(3) / "metrics.jsonl").read_text().splitlines()
    assert json.loads(noted[0]) == {"step": 1, "loss": 0.4}
    assert json.loads(noted[1]) == {"step": 2, "value": 6.5, "loss": 4.0, "acc": 0.5}
    shown = hpoctl("status", place.run_dir.path).stdout
    assert "weighted 0.5 (loss 1, acc 0.5) in trial 0: a 1" in shown
    table = hpoctl("trials", place.run_dir.path).stdout.split()
    assert table[:5] == ["trial", "state", "weighted", "loss", "acc"]
    hpoctl("report", place.run_dir.path)
    config = (place.run_dir.report / "best_config.yaml").read_text()
    assert config == "# trial 0: weighted 0.5\na: 1\n"
    assert (
        "2 x loss (minimize) + 3 x acc (maximize)"
        in (place.run_dir.report / "index.html").read_text()
    )


def test_a_pruner_of_weighted_metrics_needs_all_of_them_at_each_step(tmp_path: Path) -> None:
    place = open_workplace(tmp_path, WEIGHED, f"{SIX}{WEIGHTS}pruner: median\n")
    place.work()
    error = str(place.records()[0].attrs["error"])
    assert "a report has no acc: give it by name, trial.report(loss, step, acc=...)" in error


BOTH = """
def objective(trial):
    a = trial.params["a"]
    trial.report(a, 1)
    return {"loss": abs(a - 3), "acc": a}
"""


def test_the_best_of_several_metrics_are_a_front(tmp_path: Path, hpoctl: Hpoctl) -> None:
    metrics = "metrics: [{name: loss}, {name: acc, goal: maximize}]\n"
    place = open_workplace(tmp_path, BOTH, f"{SIX}{metrics}")
    place.work()
    found = json.loads(hpoctl("best", place.run_dir.path, "--json").stdout)
    assert [trial["number"] for trial in found["front"]] == [2, 3, 4, 5]
    assert found["front"][0] == {"number": 2, "values": [0.0, 3.0], "params": {"a": 3}}
    shown = hpoctl("best", place.run_dir.path)
    assert shown.stdout.split()[:4] == ["trial", "state", "loss", "acc"]
    assert "4 trials that no other one beats in every metric" in shown.stderr
    assert hpoctl("best", place.run_dir.path, "-q").stdout == "2\n3\n4\n5\n"
    yaml = hpoctl("best", place.run_dir.path, "--format", "yaml").stdout
    assert yaml.startswith("---\n# trial 2: loss 0, acc 3\na: 3\n---\n# trial 3:")
    assert hpoctl("best", place.run_dir.path, "--trial", "4").stdout == "a: 5\n"
    flags = hpoctl("best", place.run_dir.path, "--trial", "4", "--format", "flags").stdout
    assert flags == "--a=5\n"
    one = json.loads(hpoctl("best", place.run_dir.path, "--trial", "4", "--json").stdout)
    assert one == {"number": 4, "values": [2.0, 5.0], "params": {"a": 5}}
    status = json.loads(hpoctl("status", place.run_dir.path, "--json").stdout)
    assert status["best"] is None
    assert (
        "several metrics: 'hpoctl best 'my study''" in hpoctl("status", place.run_dir.path).stdout
    )
    hpoctl("report", place.run_dir.path)
    csv = (place.run_dir.report / "pareto_front.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in csv] == ["number", "2", "3", "4", "5"]
    assert (place.run_dir.report / "pareto_front.png").read_bytes().startswith(b"\x89PNG")
    assert "Learning curves" in (place.run_dir.report / "index.html").read_text()
