"""A site's limits on a real Slurm: refused, kept, fed in, explained; and the advice followed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from servers import Slurm, wait_for

from hpoctl.rundir import RunDir
from integration.conftest import MakeSweep, Sweep


@pytest.fixture(scope="module")
def small_arrays() -> Iterator[Slurm]:
    """A cluster that takes arrays of 5 tasks at most."""
    cluster = Slurm()
    try:
        cluster.start(nodes=1, settings=["MaxArraySize=5"])
        yield cluster
    finally:
        cluster.stop()


@contextmanager
def no_job_starts(slurm: Slurm) -> Iterator[None]:
    """Jobs may be submitted, and all wait."""
    slurm.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
    try:
        yield
    finally:
        slurm.ask("scontrol", "update", "PartitionName=gpu", "State=UP")


def most_at_once(slurm: Slurm, ids: list[str]) -> int:
    """How many tasks ran at the same time, by Slurm's accounting."""
    tasks = [task for task in slurm.tasks(*ids) if task.start is not None]
    return max(
        sum((t.start or 0) <= moment < (t.end or 1e12) for t in tasks)
        for moment in {task.start or 0 for task in tasks}
    )


def ids_of(run_dir: RunDir) -> list[str]:
    return [submission.id for submission in run_dir.submissions()]


def test_one_throttle_holds_over_split_arrays_and_attached_workers(
    make_sweep: MakeSweep, small_arrays: Slurm
) -> None:
    sweep = make_sweep(
        "journal",
        backend="local",
        mode="batch",
        sampler="random",
        max_running=3,
        budget={"trials": 12},
        objective_args={"seconds": 1.0, "steps": 2},
    )
    sweep.rewrite(backend="slurm")
    sweep.hpoctl.env.update(small_arrays.env)
    arrays = sweep.ask_json("submit", "sweep.yaml")["arrays"]
    assert [array["tasks"] for array in arrays] == [4, 4, 4]
    sweep.ask("workers", "add", "a-study", "-n", "6")
    sweep.await_finished(12)
    sweep.assert_each_ran_once(12)
    ids = ids_of(sweep.run_dir)
    assert len(ids) > 3
    wait_for(lambda: not small_arrays.ask("squeue", "--noheader"), 60, "all tasks have ended")
    wait_for(lambda: all(t.end for t in small_arrays.tasks(*ids)), 30, "accounting knows all ends")
    assert most_at_once(small_arrays, ids) <= 3


def test_jobs_feed_in_what_may_not_be_submitted_at_once(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("fed", of_user=["MaxSubmitJobs=4"])
    sweep = make_sweep(
        "journal",
        mode="batch",
        sampler="random",
        budget={"trials": 10},
        resources={"time": "5m", "account": "fed"},
    )
    answer = sweep.ask_json("submit", "sweep.yaml")
    assert sum(array["tasks"] for array in answer["arrays"]) == 4
    assert answer["notes"] == [
        "4 of 10 tasks submitted, the others follow as these end (MaxSubmit 4)"
    ]
    sweep.await_finished(10)
    sweep.assert_each_ran_once(10)
    names = [submission.array for submission in sweep.run_dir.submissions()]
    assert sorted(names) == sorted(f"round-1.{k}" for k in range(1, 11))


def test_workers_attached_to_a_run_that_is_fed_in_follow_under_its_throttle(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("late", of_user=["MaxSubmitJobs=4"])
    sweep = make_sweep(
        "postgresql",
        mode="batch",
        sampler="random",
        max_running=2,
        budget={"trials": 6},
        objective_args={"seconds": 1.0, "steps": 2},
        resources={"time": "5m", "account": "late"},
    )
    with no_job_starts(slurm):
        sweep.submit()
        sweep.ask("extend", "a-study", "--trials", "+12")
        added = sweep.hpoctl("workers", "add", "a-study", "-n", "3", timeout_s=90).stderr
        assert "0 of 3 workers submitted, the others follow as earlier tasks end" in added
        again = sweep.hpoctl("workers", "add", "a-study", "-n", "2", timeout_s=90).stderr
        assert "0 of 2 workers submitted" in again
    sweep.await_finished(18)
    sweep.assert_each_ran_once(18)
    names = [submission.array for submission in sweep.run_dir.submissions()]
    planned = {f"round-1.{k}" for k in range(1, 7)}
    attached = {"attached-1.1", "attached-1.2", "attached-1.3", "attached-2.1", "attached-2.2"}
    assert len(names) == len(set(names))
    assert planned <= set(names) <= planned | attached
    ids = ids_of(sweep.run_dir)
    wait_for(lambda: not states(slurm, "late"), 60, "all tasks have ended")
    wait_for(lambda: all(t.end for t in slurm.tasks(*ids)), 30, "accounting knows all ends")
    assert most_at_once(slurm, ids) == 2
    assert all(task.start for task in slurm.tasks(*ids))


def test_nothing_is_fed_in_after_a_cancel(make_sweep: MakeSweep, slurm: Slurm) -> None:
    slurm.add_account("cut", of_user=["MaxSubmitJobs=4"])
    sweep = make_sweep(
        "journal",
        mode="batch",
        sampler="random",
        budget={"trials": 10},
        objective_args={"seconds": 60.0, "steps": 2},
        resources={"time": "5m", "account": "cut"},
    )
    ids = sweep.submit()
    wait_for(lambda: sweep.status()["counts"]["running"] > 0, 60, "a trial runs")
    sweep.ask("cancel", "a-study")
    wait_for(lambda: not states(slurm, "cut"), 60, "all tasks have ended")
    assert ids_of(sweep.run_dir) == ids


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"time": "2d"}, "resources.time is 2d, partition gpu allows 1d (MaxTime): use time: 1d"),
        (
            {"partition": "shrot"},
            "resources.partition: no partition 'shrot' on this cluster; did you mean 'short'?",
        ),
        (
            {"gpus": "A100:1"},
            "resources.gpus: partition 'gpu' has no GPUs of type 'A100'; did you mean 'a100'?",
        ),
        (
            {"gpus": 5},
            "resources.gpus: one worker asks for 5, a node of partition 'gpu' has 4: use gpus: 4",
        ),
        ({"account": "lap"}, "resources.account: 'lap' is no account of root; did you mean 'lab'?"),
    ],
)
def test_what_can_never_start_is_refused_before_anything_is_written(
    make_sweep: MakeSweep, resources: dict[str, Any], said: str
) -> None:
    sweep = make_sweep("journal", resources=resources)
    for command in ("check", "submit"):
        done = sweep.hpoctl(command, "sweep.yaml", code=2)
        assert done.stderr.strip() == f"hpoctl: {said}"
    assert not sweep.run_dir.path.exists()


def test_limits_that_were_read_lately_refuse_nothing_that_is_allowed_by_now(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("lifted", of_user=["MaxWall=10"])
    sweep = make_sweep("journal", resources={"time": "5m", "account": "lifted"})
    sweep.ask("check", "sweep.yaml")
    sweep.rewrite(resources={"time": "20m", "account": "lifted"})
    assert "use time: 10m" in sweep.hpoctl("check", "sweep.yaml", code=2).stderr
    where = ("where", "name=root", "account=lifted")
    slurm.ask("sacctmgr", "-i", "modify", "user", *where, "set", "MaxWall=30")
    sweep.ask("check", "sweep.yaml")


def busy(make_sweep: MakeSweep, workers: int, **resources: object) -> Sweep:
    """A sweep with more to do than so many workers will have done when its test ends."""
    return make_sweep(
        "journal",
        mode="async",
        workers=workers,
        budget={"trials": 500},
        objective_args={"seconds": 3.0, "steps": 2},
        resources=resources,
    )


def advised(sweep: Sweep) -> dict[str, Any]:
    """The only delay of a study."""
    (delay,) = sweep.ask_json("why", "a-study")["delays"]
    found: dict[str, Any] = delay
    return found


def follow(sweep: Sweep, change: dict[str, Any]) -> None:
    """Types what was advised."""
    for command in change["commands"]:
        program, *words = command.split()
        assert program == "hpoctl"
        sweep.ask(*words)


def shorter(sweep: Sweep) -> dict[str, Any]:
    """The advice that is last of those on the walltime."""
    changes: list[dict[str, Any]] = advised(sweep)["changes"]
    return [change for change in changes if change["effect"].startswith("with --time")][-1]


def states(slurm: Slurm, account: str) -> list[str]:
    return slurm.ask("squeue", "-h", "-r", "-A", account, "-o", "%T").split()


@pytest.mark.parametrize(
    ("qos", "factor", "time", "counted"),
    [
        ("normal", 1, "30m", ""),
        ("double", 2, "15m", " under QOS double, which counts each minute 2 times"),
    ],
)
def test_with_the_walltime_that_why_computes_all_workers_run_at_once(
    qos: str, factor: int, time: str, counted: str, make_sweep: MakeSweep, slurm: Slurm
) -> None:
    account, at_first = f"minutes-{qos}", 2 // factor
    slurm.add_account(account, "GrpTRESRunMins=gres/gpu=240")
    if factor > 1:
        slurm.ask("sacctmgr", "-i", "add", "qos", qos, f"UsageFactor={factor}")
        slurm.ask("sacctmgr", "-i", "modify", "account", account, "set", f"qos+={qos}")
    sweep = busy(make_sweep, 8, time="2h", account=account, qos=qos, gpus=1)
    (note, *_) = sweep.ask_json("check", "sweep.yaml")["notes"]
    assert note.startswith(
        f"of 8 workers {at_first} run at once: account {account} may have 240 GPU-minutes running"
        f" (GrpTRESRunMins), one asks for {120 * factor}; with time: {time} all"
    )
    sweep.submit()
    wait_for(lambda: states(slurm, account).count("RUNNING") == at_first, 60, "the first run")
    wait_for(lambda: "AssocGrpGRESRunMinutes" in sweep.ask("why"), 30, "Slurm says why")
    delay = advised(sweep)
    assert delay["text"].startswith(
        f"{8 - at_first} workers x 2h x 1 GPU{counted} ask for {(8 - at_first) * 120 * factor:,}"
        f" GPU-minutes; account {account} may have 240 GPU-minutes running (GrpTRESRunMins), and"
        " 240 are taken (all by this study)"
    )
    change = shorter(sweep)
    assert change["effect"].startswith(f"with --time {time} all 8 run at once")
    try:
        follow(sweep, change)
        wait_for(lambda: states(slurm, account) == ["RUNNING"] * 8, 90, "all eight run")
        assert sweep.ask_json("why", "a-study")["delays"] == []
    finally:
        sweep.ask("cancel", "a-study")


def test_with_the_walltime_that_why_computes_those_that_wait_start_beside_the_others(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("billing", "GrpTRESRunMins=billing=300")
    sweep = busy(make_sweep, 6, time="70m", account="billing", gpus=1)
    sweep.submit()
    wait_for(lambda: "AssocGrpBillingRunMinutes" in sweep.ask("why"), 60, "Slurm says why")
    wait_for(lambda: states(slurm, "billing").count("RUNNING") == 4, 60, "four workers run")
    change = advised(sweep)["changes"][0]
    assert change["effect"] == "with --time 10m all 2 start now"
    try:
        follow(sweep, change)
        wait_for(lambda: states(slurm, "billing") == ["RUNNING"] * 6, 60, "all six run")
    finally:
        sweep.ask("cancel", "a-study")


def test_with_the_walltime_that_why_computes_all_workers_fit_into_what_is_left_of_a_grant(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("granted", "GrpTRESMins=gres/gpu=240")
    sweep = busy(make_sweep, 8, time="2h", account="granted", gpus=1)
    left = "account granted has 240 of 240 GPU-minutes left (GrpTRESMins)"
    (note, *_) = sweep.ask_json("check", "sweep.yaml")["notes"]
    assert note.startswith(f"of 8 workers 2 run at once: {left}, one asks for 120")
    sweep.rewrite(resources={"time": "5h", "account": "granted", "gpus": 1})
    assert "use time: 4h" in sweep.hpoctl("check", "sweep.yaml", code=2).stderr
    sweep.rewrite(resources={"time": "2h", "account": "granted", "gpus": 1})
    sweep.submit()
    wait_for(lambda: states(slurm, "granted").count("RUNNING") == 2, 60, "two workers run")
    wait_for(lambda: "AssocGrpGRESMinutes" in sweep.ask("why"), 30, "Slurm says why")
    assert advised(sweep)["text"] == (
        f"6 workers x 2h x 1 GPU ask for 720 GPU-minutes; {left}, and 240 are taken (all by this"
        " study)"
    )
    change = shorter(sweep)
    assert change["effect"].startswith("with --time 27m all 8 run at once")
    try:
        follow(sweep, change)
        wait_for(lambda: states(slurm, "granted") == ["RUNNING"] * 8, 90, "all eight run")
    finally:
        sweep.ask("cancel", "a-study")


def test_under_the_qos_that_why_names_all_workers_run_at_once(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("choice")
    for name, limits in (("tight", ["GrpTRES=cpu=1"]), ("scavenge", ["UsageFactor=0.5"])):
        slurm.ask("sacctmgr", "-i", "add", "qos", name, *limits)
    slurm.ask("sacctmgr", "-i", "modify", "qos", "high", "set", "preempt=normal,scavenge")
    where = ("where", "name=root", "account=choice")
    qos = ("qos=tight,scavenge", "defaultqos=tight")
    slurm.ask("sacctmgr", "-i", "modify", "user", *where, "set", *qos)
    sweep = busy(make_sweep, 3, time="10m", account="choice")
    sweep.submit()
    wait_for(lambda: "QOSGrpCpuLimit" in sweep.ask("why"), 60, "Slurm says why")
    wait_for(lambda: states(slurm, "choice").count("RUNNING") == 1, 60, "one worker runs")
    change = advised(sweep)["changes"][-1]
    assert change["effect"] == (
        "under QOS scavenge no limit holds them back; jobs of QOS high may preempt them; their"
        " hours count 0.5 times"
    )
    try:
        follow(sweep, change)
        wait_for(lambda: states(slurm, "choice") == ["RUNNING"] * 3, 60, "all three run")
    finally:
        sweep.ask("cancel", "a-study")


def test_the_qos_of_a_partition_counts_all_that_runs_there(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.ask("sacctmgr", "-i", "add", "qos", "of-short", "GrpTRES=cpu=2")
    slurm.ask("scontrol", "update", "partitionname=short", "qos=of-short")
    sweep = busy(make_sweep, 3, time="5m", account="lab", partition="short")
    limit = "QOS of-short of partition short may use 2 CPU at once (GrpTRES)"
    try:
        (note, *_) = sweep.ask_json("check", "sweep.yaml")["notes"]
        assert note == f"of 3 workers 2 run at once: {limit}"
        sweep.submit()
        wait_for(lambda: "QOSGrpCpuLimit" in sweep.ask("why"), 60, "Slurm says why")
        assert advised(sweep)["text"] == (
            f"1 worker x 5m x 1 CPU asks for 1 CPU; {limit}, and 2 are taken (all by this study)"
        )
        away = advised(sweep)["changes"][-1]
        assert away["effect"] == "partition gpu has room: 1 idle node"
        follow(sweep, away)
        wait_for(lambda: states(slurm, "lab") == ["RUNNING"] * 3, 60, "all three run")
    finally:
        sweep.ask("cancel", "a-study")
        slurm.ask("scontrol", "update", "partitionname=short", "qos=")


def test_tasks_that_wait_are_explained_each_by_its_own_reason(
    make_sweep: MakeSweep, slurm: Slurm
) -> None:
    slurm.add_account("words", "GrpTRES=cpu=2", of_user=["MaxJobs=4"])
    sweep = make_sweep("journal", mode="async", workers=1, budget={"trials": 1})
    sweep.submit()
    sweep.await_finished(1)
    run = ("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 300")
    asked = {
        "AssocGrpCpuLimit": ("--account=words", "--array=0-3", "--time=5"),
        "PartitionTimeLimit": ("--account=lab", "--partition=short", "--time=10"),
        "JobHeldUser": ("--account=lab", "--hold"),
        "BeginTime": ("--account=lab", "--begin=now+1hour"),
        "JobArrayTaskLimit": ("--account=lab", "--array=0-2%1"),
    }
    ids = {reason: slurm.ask(*run, *flags) for reason, flags in asked.items()}
    ids["Dependency"] = slurm.ask(*run, "--account=lab", f"--dependency=after:{ids['BeginTime']}")
    with sweep.run_dir.ledger.open("a") as ledger:
        for name, id_ in ids.items():
            entry = {"array": name, "id": id_, "tasks": 1, "backend": "slurm", "at": 0.0}
            ledger.write(json.dumps(entry) + "\n")

    def delays() -> dict[str, dict[str, Any]]:
        return {delay["reason"]: delay for delay in sweep.ask_json("why", "a-study")["delays"]}

    try:
        wait_for(lambda: set(delays()) == set(ids), 60, f"all of {set(ids)}, not {set(delays())}")
        found = delays()
        assert "account words may use 2 CPU at once (GrpTRES)" in found["AssocGrpCpuLimit"]["text"]
        late = found["PartitionTimeLimit"]
        assert late["never"]
        assert late["changes"][0]["commands"] == [
            "hpoctl workers add a-study -n 1 --time 5m --instead"
        ]
        assert "scontrol release" in found["JobHeldUser"]["changes"][0]["effect"]
        assert "expected to start" in sweep.ask("why", "a-study")
    finally:
        slurm.ask("scancel", *ids.values())


def test_another_jobs_share_of_the_account_is_counted(make_sweep: MakeSweep, slurm: Slurm) -> None:
    slurm.add_account("shared", "GrpTRES=cpu=3")
    flags = (
        "--parsable",
        "--output=/dev/null",
        "--account=shared",
        "--cpus-per-task=3",
        "--time=9",
    )
    other = slurm.ask("sbatch", *flags, "--wrap=sleep 300")
    sweep = make_sweep(
        "journal", mode="async", workers=2, resources={"time": "5m", "account": "shared"}
    )
    try:
        sweep.submit()
        wait_for(lambda: "AssocGrpCpuLimit" in sweep.ask("why"), 60, "Slurm says why")
        assert advised(sweep)["text"] == (
            "2 workers x 5m x 1 CPU ask for 2 CPU; account shared may use 3 CPU at once (GrpTRES),"
            " and 3 are taken"
        )
        change = advised(sweep)["changes"][0]
        assert re.fullmatch(r"room for one is free in [89]m at the latest.*", change["effect"])
    finally:
        slurm.ask("scancel", other)
        sweep.ask("cancel", "a-study")
