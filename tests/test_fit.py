"""Fitting into a site: what never starts is refused with a value that passes; what waits, told."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpoctl import fit
from hpoctl.errors import ConfigError
from hpoctl.limits import Account, Association, Cap, Limits, Measure, Nodes, Partition, Qos
from hpoctl.plan import JobArray, Plan
from hpoctl.sweep import Resources
from hpoctl.words import Mode


def cap(name: str, measure: Measure, value: int, resource: str = "", **more: Any) -> Cap:
    made = Cap(name=name, holder="account lab", measure=measure, value=value, resource=resource)
    return replace(made, **more)


SITE = Limits(
    tasks_per_array=1001,
    user="ada",
    enforced=frozenset({"associations", "limits", "qos"}),
    default_account="lab",
    partitions=(
        Partition(name="gpu", default=True, max_minutes=1440, weights={"cpu": 0.25, "gres/gpu": 1}),
        Partition(name="cpu", max_minutes=5, allow_accounts=("other",), deny_qos=("high",)),
    ),
    nodes=(
        Nodes(partition="gpu", count=2, cpus=16, mem_mb=20000, gpus={"a100": 4}),
        Nodes(partition="gpu", count=1, cpus=64, mem_mb=8000, gpus={"t4": 2}),
        Nodes(partition="cpu", count=9, cpus=128, mem_mb=500_000),
    ),
    associations=(Association(account="lab", qos=("normal", "high"), default_qos="normal"),),
    accounts=(Account(name="lab"),),
    qos=(Qos(name="normal"), Qos(name="high"), Qos(name="secret")),
)


def with_account(*caps: Cap) -> Limits:
    return replace(SITE, accounts=(Account(name="lab", caps=caps),))


def with_qos(qos: Qos) -> Limits:
    return replace(SITE, qos=(*(q for q in SITE.qos if q.name != qos.name), qos))


def refusal(limits: Limits, **resources: object) -> str:
    with pytest.raises(ConfigError) as refused:
        fit.refuse(Resources.model_validate(resources), limits)
    return str(refused.value)


MINUTES = cap("GrpTRESRunMins", Measure.MINUTES, 600, "gres/gpu")


@pytest.mark.parametrize(
    ("asked", "said", "passes"),
    [
        (
            {"partition": "gpus"},
            "resources.partition: no partition 'gpus' on this cluster; did you mean 'gpu'?",
            {"partition": "gpu"},
        ),
        (
            {"account": "lap"},
            "resources.account: 'lap' is no account of ada; did you mean 'lab'?",
            {"account": "lab"},
        ),
        (
            {"qos": "hihg"},
            "resources.qos: no QOS 'hihg' on this cluster; did you mean 'high'?",
            {"qos": "high"},
        ),
        (
            {"qos": "secret"},
            "resources.qos: account 'lab' may not use 'secret', only normal, high",
            {"qos": "normal"},
        ),
        (
            {"partition": "cpu"},
            "resources.partition: 'cpu' is not for account 'lab': use another partition",
            {"partition": "gpu"},
        ),
        (
            {"time": "2d"},
            "resources.time is 2d, partition gpu allows 1d (MaxTime): use time: 1d",
            {"time": "1d"},
        ),
        (
            {"gpus": "A10:1"},
            "resources.gpus: partition 'gpu' has no GPUs of type 'A10'; did you mean 'a100'?",
            {"gpus": "a100:1"},
        ),
        (
            {"gpus": 8},
            "resources.gpus: one worker asks for 8, a node of partition 'gpu' has 4: use gpus: 4",
            {"gpus": 4},
        ),
        (
            {"gpus": "t4:3"},
            "resources.gpus: one worker asks for 3, a node of partition 'gpu' has 2:"
            " use gpus: t4:2",
            {"gpus": "t4:2"},
        ),
        (
            {"gpus": "a100:1", "cpus": 32},
            "resources.cpus: one worker asks for 32, a node of partition 'gpu' has 16:"
            " use cpus: 16",
            {"gpus": "a100:1", "cpus": 16},
        ),
        (
            {"mem": "30G"},
            "resources.mem: one worker asks for 30720 MB, a node of partition 'gpu' has 20000 MB:"
            " use mem: 20000M",
            {"mem": "20000M"},
        ),
        (
            {"cpus": 32, "mem": "10G"},
            "resources: no node of partition 'gpu' has all that is asked for:"
            " 16 CPUs and 20000 MB or 64 CPUs and 8000 MB",
            {"cpus": 32, "mem": "7G"},
        ),
    ],
)
def test_what_no_node_or_rule_allows_is_refused_with_what_passes(
    asked: dict[str, object], said: str, passes: dict[str, object]
) -> None:
    assert refusal(SITE, **asked) == said
    fit.refuse(Resources.model_validate(passes), SITE)


@pytest.mark.parametrize(
    ("limit", "asked", "said", "passes"),
    [
        (
            MINUTES,
            {"gpus": 4, "time": "3h"},
            "resources: one worker asks for 4 GPU for 3h, 720 GPU-minutes; account lab may have 600"
            " GPU-minutes running (GrpTRESRunMins): use time: 2h 30m",
            {"gpus": 4, "time": "2h 30m"},
        ),
        (
            cap("GrpTRESRunMins", Measure.MINUTES, 100, "billing"),
            {"gpus": 1, "cpus": 4, "time": "1h"},
            "resources: one worker asks for 2 billing for 1h, 120 billing-minutes; account lab may"
            " have 100 billing-minutes running (GrpTRESRunMins): use time: 50m",
            {"gpus": 1, "cpus": 4, "time": "50m"},
        ),
        (
            cap("GrpTRES", Measure.RESOURCES, 2, "gres/gpu"),
            {"gpus": 4},
            "resources: one worker asks for 4 GPU; account lab may use 2 GPU at once (GrpTRES):"
            " use gpus: 2",
            {"gpus": 2},
        ),
        (
            cap("MaxTRES", Measure.EACH, 4, "cpu"),
            {"cpus": 8},
            "resources: one worker asks for 8 CPU; account lab allows a task 4 CPU (MaxTRES):"
            " use cpus: 4",
            {"cpus": 4},
        ),
        (
            cap("GrpTRES", Measure.RESOURCES, 1024, "mem"),
            {"mem": "4G"},
            "resources: one worker asks for 4,096 MB of memory; account lab may use 1,024 MB of"
            " memory at once (GrpTRES): use mem: 1024M",
            {"mem": "1024M"},
        ),
    ],
)
def test_a_limit_smaller_than_one_worker_is_refused_with_what_passes(
    limit: Cap, asked: dict[str, object], said: str, passes: dict[str, object]
) -> None:
    assert refusal(with_account(limit), **asked) == said
    fit.refuse(Resources.model_validate(passes), with_account(limit))


def test_limits_that_slurm_does_not_enforce_refuse_nothing() -> None:
    lax = replace(with_account(MINUTES), enforced=frozenset())
    fit.refuse(Resources.model_validate({"gpus": 4, "time": "10h", "account": "any"}), lax)


def test_the_limit_of_a_qos_wins_over_the_same_limit_of_an_account() -> None:
    wide = Qos(name="high", caps=(replace(MINUTES, value=6000, qos="high"),))
    limits = replace(with_account(MINUTES), qos=(Qos(name="normal"), wide))
    fit.refuse(Resources.model_validate({"gpus": 4, "time": "3h", "qos": "high"}), limits)
    assert "account lab" in refusal(limits, gpus=4, time="3h")


def test_the_qos_of_a_partition_wins_over_the_qos_of_the_job_unless_that_overrules_it() -> None:
    strict = Qos(name="part", caps=(cap("MaxWall", Measure.WALLTIME, 60, holder="QOS part"),))
    own = Qos(name="high", caps=(cap("MaxWall", Measure.WALLTIME, 600, holder="QOS high"),))
    gpu = replace(SITE.partitions[0], qos="part")
    limits = replace(SITE, partitions=(gpu,), qos=(strict, own))
    assert "QOS part of partition gpu allows 1h" in refusal(limits, time="2h", qos="high")
    over = replace(own, flags=("OverPartQOS",))
    fit.refuse(
        Resources.model_validate({"time": "2h", "qos": "high"}), replace(limits, qos=(strict, over))
    )


def test_a_qos_may_lift_the_walltime_of_the_partition() -> None:
    lifting = with_qos(Qos(name="high", flags=("PartitionTimeLimit",)))
    fit.refuse(Resources.model_validate({"time": "3d", "qos": "high"}), lifting)


def test_one_of_several_partitions_is_enough() -> None:
    fit.refuse(Resources.model_validate({"partition": "cpu,gpu", "gpus": 4}), SITE)
    assert "'cpu' is not for account" in refusal(SITE, partition="cpu,nosuch")


def test_flags_of_ones_own_are_not_second_guessed() -> None:
    flags = {"sbatch": ["--partition=secret", "--time=9-0"], "gpus": 99}
    fit.refuse(Resources.model_validate(flags), SITE)


def plan(*arrays: JobArray) -> Plan:
    return Plan(mode=Mode.BATCH, trials=1, arrays=arrays, cost=None)


def fitted(
    limits: Limits, *arrays: JobArray, max_running: int | None = None, **asked: object
) -> Plan:
    resources = Resources.model_validate(asked)
    return fit.fit(plan(*arrays), resources, limits, max_running=max_running)


def test_what_starts_but_not_all_at_once_is_a_note_with_the_time_that_would_do() -> None:
    large = replace(with_account(MINUTES), nodes=(replace(SITE.nodes[0], count=5),))
    (note,) = fitted(large, JobArray(name="w", tasks=20), gpus=1, time="2h").notes
    assert note == (
        "of 20 workers 5 run at once: account lab may have 600 GPU-minutes running"
        " (GrpTRESRunMins), one asks for 120; with time: 30m all run at once"
    )
    assert (
        fitted(with_account(MINUTES), JobArray(name="w", tasks=20), gpus=1, time="30m").notes == ()
    )


def test_a_grant_refuses_what_it_never_held_and_notes_what_is_not_left() -> None:
    grant = cap("GrpTRESMins", Measure.GRANT, 100, "gres/gpu")
    limits = with_account(replace(grant, granted=1000))
    assert refusal(limits, gpus=1, time="17h") == (
        "resources: one worker asks for 1 GPU for 17h, 1,020 GPU-minutes; account lab has 100 of"
        " 1,000 GPU-minutes left (GrpTRESMins): use time: 1h 40m"
    )
    (note,) = fitted(limits, JobArray(name="w", tasks=1), gpus=1, time="2h").notes
    assert note == (
        "of 1 worker none can start now: account lab has 100 of 1,000 GPU-minutes left"
        " (GrpTRESMins), one asks for 120; with time: 1h 40m all run at once"
    )
    each = with_account(cap("MaxTRESMins", Measure.MINUTES_EACH, 100, "gres/gpu"))
    assert refusal(each, gpus=1, time="2h").endswith(
        "account lab allows a task 100 GPU-minutes (MaxTRESMins): use time: 1h 40m"
    )


def test_minutes_are_reckoned_as_often_as_the_qos_counts_them() -> None:
    here = with_account(MINUTES)
    limits = replace(here, qos=(Qos(name="normal", usage_factor=2),))
    large = replace(limits, nodes=(replace(SITE.nodes[0], count=5),))
    (note,) = fitted(large, JobArray(name="w", tasks=20), gpus=1, time="1h").notes
    assert note.startswith("of 20 workers 5 run at once")
    assert note.endswith("one asks for 120; with time: 15m all run at once")
    assert refusal(limits, gpus=1, time="6h") == (
        "resources: one worker asks for 1 GPU for 6h under QOS normal, which counts each minute 2"
        " times, 720 GPU-minutes; account lab may have 600 GPU-minutes running (GrpTRESRunMins):"
        " use time: 5h"
    )
    fit.refuse(Resources.model_validate({"gpus": 1, "time": "5h"}), limits)


def test_a_note_promises_no_more_than_the_nodes_hold() -> None:
    (note,) = fitted(with_account(MINUTES), JobArray(name="w", tasks=20), gpus=1, time="2h").notes
    assert note.endswith("with time: 1h all 10 that the nodes hold run at once")


def test_the_tightest_of_several_limits_is_noted() -> None:
    limits = with_account(MINUTES, cap("MaxJobs", Measure.JOBS, 3))
    (note,) = fitted(limits, JobArray(name="w", tasks=20), gpus=1, time="1h").notes
    assert note == "of 20 workers 3 run at once: account lab may run 3 tasks at once (MaxJobs)"


def test_an_array_within_the_limit_stays_whole() -> None:
    array = JobArray(name="r", tasks=1001, at_once=7)
    assert fitted(SITE, array).arrays == (array,)


def test_a_larger_array_without_a_throttle_becomes_arrays_side_by_side() -> None:
    assert fitted(SITE, JobArray(name="r", tasks=2500)).arrays == (
        JobArray(name="r.1", tasks=833),
        JobArray(name="r.2", tasks=834),
        JobArray(name="r.3", tasks=833),
    )


def test_a_throttle_is_shared_out_over_the_pieces() -> None:
    arrays = fitted(SITE, JobArray(name="r", tasks=2500, at_once=50)).arrays
    assert [(array.tasks, array.at_once) for array in arrays] == [(850, 17), (850, 17), (800, 16)]


def test_a_throttle_smaller_than_the_number_of_pieces_makes_chains() -> None:
    assert fitted(SITE, JobArray(name="r", tasks=2500, at_once=1)).arrays == (
        JobArray(name="r.1", tasks=834, at_once=1),
        JobArray(name="r.2", tasks=833, at_once=1, after=("r.1",)),
        JobArray(name="r.3", tasks=833, at_once=1, after=("r.2",)),
    )


def test_what_waits_for_a_split_array_waits_for_all_its_pieces() -> None:
    *pieces, last = fitted(
        SITE, JobArray(name="a", tasks=2002), JobArray(name="b", tasks=1, after=("a",))
    ).arrays
    assert last.after == tuple(piece.name for piece in pieces) == ("a.1", "a.2")


@settings(deadline=None)
@given(
    st.integers(1, 9000), st.integers(1, 300) | st.none(), st.integers(1, 1200), st.integers(1, 9)
)
def test_pieces_keep_the_tasks_and_the_throttle(
    tasks: int, at_once: int | None, most: int, lanes: int
) -> None:
    throttle = at_once if at_once is not None and at_once < tasks else None
    pieces = fit.split([JobArray(name="r", tasks=tasks, at_once=throttle)], most, lanes)
    assert sum(piece.tasks for piece in pieces) == tasks
    assert all(1 <= piece.tasks <= most for piece in pieces)
    assert len({piece.name for piece in pieces}) == len(pieces)
    if throttle is not None:
        ends = {piece.name: max(len(piece.after), 0) for piece in pieces}
        lanes_used = [piece for piece in pieces if not ends[piece.name]]
        assert len(lanes_used) <= lanes
        assert _most_running(pieces) <= throttle
    earlier = set[str]()
    for piece in pieces:
        assert set(piece.after) <= earlier
        earlier.add(piece.name)


def _most_running(pieces: tuple[JobArray, ...]) -> int:
    """The tasks that may run at a time: of each chain its widest piece."""
    chain = dict[str, str]()
    widest = dict[str, int]()
    for piece in pieces:
        head = chain[piece.after[0]] if piece.after else piece.name
        chain[piece.name] = head
        width = min(piece.tasks, piece.at_once or piece.tasks)
        widest[head] = max(widest.get(head, 0), width)
    return sum(widest.values())


def test_max_running_throttles_every_mode() -> None:
    (array,) = fitted(SITE, JobArray(name="w", tasks=20), max_running=4).arrays
    assert array.at_once == 4
    (array,) = fitted(SITE, JobArray(name="w", tasks=20, at_once=3), max_running=4).arrays
    assert array.at_once == 3
    (array,) = fitted(SITE, JobArray(name="w", tasks=4), max_running=4).arrays
    assert array.at_once is None


def test_more_tasks_than_may_be_submitted_become_small_pieces_that_are_fed_in() -> None:
    limit = cap("MaxSubmit", Measure.SUBMITTED, 6, mine=True)
    whole = fitted(with_account(limit), JobArray(name="r", tasks=40, trials_per_task=1))
    assert whole.fed == (limit,)
    assert [array.tasks for array in whole.arrays] == [1] * 40
    assert all(array.after == () for array in whole.arrays)
    within = fitted(with_account(limit), JobArray(name="r", tasks=6))
    assert (within.fed, within.arrays) == ((), (JobArray(name="r", tasks=6),))


def test_pieces_that_are_fed_in_keep_the_throttle_over_those_that_are_there_at_once() -> None:
    limit = cap("MaxSubmit", Measure.SUBMITTED, 1000, mine=True)
    whole = fitted(with_account(limit), JobArray(name="r", tasks=3000, at_once=50))
    first = [array for array in whole.arrays if not array.after]
    assert all(array.tasks <= 250 for array in whole.arrays)
    assert [array.at_once for array in first] == [13, 13, 12, 12]
    assert sum(array.tasks for array in itertools.islice(whole.arrays, 4)) <= 1000
    assert list(whole.arrays[:4]) == first


def test_no_limits_change_nothing() -> None:
    array = JobArray(name="r", tasks=100_000, at_once=3)
    assert fitted(Limits(), array, partition="any", gpus=99).arrays == (array,)
