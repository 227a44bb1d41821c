# ruff: noqa: E501 - a queue stands as it comes
"""Reasons in words: captured queues, a site's limits, and the arithmetic of the advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hpoctl.backends.slurm import jobs, reasons
from hpoctl.backends.slurm.jobs import Job
from hpoctl.delay import Change, Delay
from hpoctl.limits import Account, Association, Cap, Limits, Measure, Nodes, Partition, Qos

# captured from Slurm 22.05.8
QUEUE = """\
124|PENDING|root|sub|normal|gpu|2:00:00|2:00:00|N/A|cpu=1,mem=100M,node=1,billing=1,gres/gpu=1|AssocGrpGRESRunMinutes|
124|RUNNING|root|sub|normal|gpu|2:00:00|1:59:57|1790000000|cpu=1,mem=100M,node=1,billing=1,gres/gpu=1|None|
125|PENDING|root|lab|normal|gpu|1-00:00:00|1-00:00:00|2026-01-02T00:00:00|cpu=4,mem=2G,node=1,billing=4|ReqNodeNotAvail, UnavailableNodes:n[1-2]|
"""

PENDING = jobs.parse(QUEUE)[0]
RUNNING = replace(PENDING, running=True, minutes_left=120, reason="None", array="124")


def test_a_queue_is_read_with_what_its_jobs_ask_for() -> None:
    waiting, running, unavailable = jobs.parse(QUEUE)
    assert waiting == Job(
        array="124",
        running=False,
        user="root",
        account="sub",
        qos="normal",
        partition="gpu",
        minutes=120,
        minutes_left=120,
        start=None,
        needs={"cpu": 1, "mem": 100, "node": 1, "billing": 1, "gres/gpu": 1},
        reason="AssocGrpGRESRunMinutes",
    )
    assert (running.running, running.minutes, running.minutes_left) == (True, 120, 120)
    assert unavailable.reason == "ReqNodeNotAvail, UnavailableNodes:n[1-2]"
    assert unavailable.start == "2026-01-02T00:00:00"


def cap(name: str, measure: Measure, value: int, resource: str = "", qos: str | None = None) -> Cap:
    holder = f"QOS {qos}" if qos else "account big"
    return Cap(
        name=name,
        holder=holder,
        measure=measure,
        value=value,
        resource=resource,
        accounts=() if qos else ("big", "sub"),
        qos=qos,
    )


def site(*caps: Cap) -> Limits:
    """A cluster on which these limits hold for account sub, below big, under QOS normal."""
    return Limits(
        enforced=frozenset({"limits"}),
        partitions=(Partition(name="gpu", max_minutes=1440), Partition(name="spare")),
        nodes=(
            Nodes(
                partition="gpu", count=8, cpus=16, mem_mb=200_000, gpus={"a100": 4}, state="mixed"
            ),
            Nodes(
                partition="spare", count=3, cpus=16, mem_mb=100_000, gpus={"t4": 2}, state="idle"
            ),
        ),
        associations=(Association(account="sub", qos=("normal",)),),
        accounts=(
            Account(name="big", caps=tuple(c for c in caps if c.qos is None)),
            Account(name="sub", parent="big"),
        ),
        qos=(Qos(name="normal", caps=tuple(c for c in caps if c.qos is not None)),),
    )


def explain(
    reason: str, limits: Limits, *, waiting: int = 15, running: int = 5, others: Sequence[Job] = ()
) -> Delay:
    queue = [replace(PENDING, reason=reason)] * waiting + [RUNNING] * running
    counted = [RUNNING] * running + list(others)
    (delay,) = reasons.explain(queue, limits, lambda limit: counted)
    assert (delay.reason, delay.tasks, delay.arrays) == (reason, waiting, ("124",))
    return delay


RUN_MINUTES = cap("GrpTRESRunMins", Measure.MINUTES, 600, "gres/gpu")


def test_running_minutes_of_an_account_name_the_walltime_with_which_all_run() -> None:
    delay = explain("AssocGrpGRESRunMinutes", site(RUN_MINUTES))
    assert delay.text == (
        "15 workers x 2h x 1 GPU ask for 1,800 GPU-minutes; account big may have 600 GPU-minutes"
        " running (GrpTRESRunMins), and 600 are taken (all by this study)"
    )
    (change,) = delay.changes
    assert (
        change.effect
        == "with --time 30m all 20 run at once, when those of the study that run have left"
    )
    assert change.flags == ("-n", "20", "--time", "30m", "--instead")
    assert change.drain


def test_no_more_is_promised_than_the_nodes_hold() -> None:
    here = site(RUN_MINUTES)
    two = replace(here, nodes=(replace(here.nodes[0], count=2),))
    (change,) = explain("AssocGrpGRESRunMinutes", two).changes
    assert change.flags == ("-n", "8", "--time", "1h15m", "--instead")
    assert "all 8 that the nodes hold run at once" in change.effect


def test_what_starts_in_place_of_the_studys_own_needs_no_other_walltime() -> None:
    (change,) = explain("AssocGrpGRESRunMinutes", site(RUN_MINUTES), waiting=5).changes
    assert change.effect == "all 5 start when those of the study that run have left"
    assert (change.flags, change.drain) == ((), True)


def test_the_start_that_slurm_expects_is_a_moment_in_words() -> None:
    (told,) = jobs.parse(QUEUE.splitlines()[0].replace("N/A", "1000086400"))
    assert str(told.start).startswith("2001-09-1")


def test_what_others_of_the_account_use_leaves_less() -> None:
    other = replace(RUNNING, array="7", user="eve", minutes=200, minutes_left=200)
    delay = explain("AssocGrpGRESRunMinutes", site(RUN_MINUTES), running=2, others=[other])
    assert delay.text.endswith("and 440 are taken (240 by this study)")
    now, then = delay.changes
    assert now.effect == "with --time 10m all 15 start now"  # 160 free / 15
    assert then.effect.startswith("with --time 23m all 17")  # (600 - 200) / 17


@pytest.mark.parametrize(
    ("reason", "limit"),
    [
        ("AssocGrpBillingRunMinutes", cap("GrpTRESRunMins", Measure.MINUTES, 600, "billing")),
        ("AssocGrpCPURunMinutesLimit", cap("GrpTRESRunMins", Measure.MINUTES, 600, "cpu")),
        ("AssocGrpMemRunMinutes", cap("GrpTRESRunMins", Measure.MINUTES, 60000, "mem")),
        ("QOSGrpGRESRunMinutes", cap("GrpTRESRunMins", Measure.MINUTES, 600, "gres/gpu", "normal")),
        ("QOSGrpCPURunMinutesLimit", cap("GrpTRESRunMins", Measure.MINUTES, 600, "cpu", "normal")),
    ],
)
def test_running_minutes_of_every_kind_are_understood(reason: str, limit: Cap) -> None:
    delay = explain(reason, site(limit))
    assert delay.changes[-1].flags == ("-n", "20", "--time", "30m", "--instead")


@pytest.mark.parametrize(
    ("reason", "limit", "said"),
    [
        (
            "AssocGrpGRES",
            cap("GrpTRES", Measure.RESOURCES, 5, "gres/gpu"),
            "ask for 15 GPU; account big may use 5 GPU at once (GrpTRES), and 5 are taken (all by this study)",
        ),
        (
            "AssocGrpCpuLimit",
            cap("GrpTRES", Measure.RESOURCES, 5, "cpu"),
            "ask for 15 CPU; account big may use 5 CPU at once (GrpTRES), and 5 are taken (all by this study)",
        ),
        (
            "QOSMaxGRESPerUser",
            cap("MaxTRESPU", Measure.RESOURCES, 5, "gres/gpu", "normal"),
            "ask for 15 GPU; QOS normal may use 5 GPU at once (MaxTRESPU), and 5 are taken (all by this study)",
        ),
        (
            "QOSMaxJobsPerUserLimit",
            cap("MaxJobsPU", Measure.JOBS, 5, "", "normal"),
            "ask for 15 places; QOS normal may run 5 tasks at once (MaxJobsPU), and 5 are taken (all by this study)",
        ),
        (
            "AssocMaxJobsLimit",
            cap("MaxJobs", Measure.JOBS, 5),
            "ask for 15 places; account big may run 5 tasks at once (MaxJobs), and 5 are taken (all by this study)",
        ),
    ],
)
def test_limits_on_what_runs_at_once_show_what_is_taken(reason: str, limit: Cap, said: str) -> None:
    assert explain(reason, site(limit)).text == f"15 workers x 2h x 1 GPU {said}"


def test_a_limit_that_is_full_says_when_walltimes_will_have_made_room() -> None:
    limit = cap("GrpTRES", Measure.RESOURCES, 8, "gres/gpu")
    needs = {**PENDING.needs, "gres/gpu": 2}
    big = replace(PENDING, needs=needs, reason="AssocGrpGRES")
    queue = [replace(RUNNING, minutes_left=left, array="7", user="eve") for left in (90, 0, 40)]
    queue += [replace(RUNNING, minutes_left=300)] * 5
    (delay,) = reasons.explain([big, *queue[3:]], site(limit), lambda _: queue)
    assert delay.text.endswith("and 8 are taken (5 by this study)")
    (change,) = delay.changes
    assert change.effect == "room for one is free in 40m at the latest, by the walltimes"
    endless = [replace(job, minutes=0, minutes_left=0) for job in queue]
    assert reasons.explain([big], site(limit), lambda _: endless)[0].changes == ()
    (delay,) = reasons.explain([big], site(replace(limit, value=9)), lambda _: queue)
    assert [c.effect for c in delay.changes] == [
        "with --gpus 1 all 1 start as soon as nodes are free",
        "room for one is free in 1m at the latest, by the walltimes",
    ]


def test_a_task_that_alone_passes_a_limit_never_starts_but_a_shorter_one_does() -> None:
    delay = explain("AssocGrpGRESRunMinutes", site(replace(RUN_MINUTES, value=100)), running=0)
    assert delay.never
    assert delay.changes[0].flags == ("-n", "15", "--time", "1h40m", "--instead")


def test_a_walltime_over_the_partitions_never_starts_but_its_longest_does() -> None:
    delay = explain(
        "PartitionTimeLimit", replace(site(), partitions=(Partition(name="gpu", max_minutes=60),))
    )
    assert delay.never
    assert "partition gpu allows a task 1h (MaxTime)" in delay.text
    assert delay.changes[0].flags == ("-n", "15", "--time", "1h", "--instead")


def test_busy_nodes_are_counted_and_a_partition_with_idle_ones_is_named() -> None:
    delay = explain("Resources", site())
    assert delay.text == "the nodes that these need are busy (nodes of partition gpu: 8 mixed)"
    (change,) = delay.changes
    assert change.effect == "partition spare has room: 3 idle nodes, GPUs t4"
    assert change.flags == ("-n", "15", "--partition", "spare", "--instead")


@pytest.mark.parametrize(
    "unfit",
    [
        {"mem": 200_000.0},
        {"cpu": 17.0},
        {"gres/gpu": 3.0},
        {"gres/gpu:a100": 1.0},
    ],
)
def test_idle_nodes_that_such_a_task_could_never_use_are_no_way_out(
    unfit: dict[str, float],
) -> None:
    busy = replace(PENDING, reason="Resources", needs={**PENDING.needs, **unfit})
    (delay,) = reasons.explain([busy], site(), lambda _: [])
    assert [c.effect for c in delay.changes] == [
        "a shorter --time lets Slurm use gaps between other jobs (backfill)"
    ]


@pytest.mark.parametrize(
    ("limit", "counted"),
    [
        (Cap(name="a", holder="", measure=Measure.JOBS, value=1), "abcd"),
        (Cap(name="a", holder="", measure=Measure.JOBS, value=1, accounts=("sub",)), "abd"),
        (Cap(name="a", holder="", measure=Measure.JOBS, value=1, mine=True), "ad"),
        (Cap(name="a", holder="", measure=Measure.JOBS, value=1, qos="high"), "b"),
        (
            Cap(
                name="a",
                holder="",
                measure=Measure.JOBS,
                value=1,
                qos="high",
                partitions=("spare",),
            ),
            "d",
        ),
    ],
)
def test_tasks_count_against_a_limit_by_account_user_and_qos(limit: Cap, counted: str) -> None:
    running = {
        "a": RUNNING,
        "b": replace(RUNNING, user="eve", qos="high"),
        "c": replace(RUNNING, user="eve", account="other"),
        "d": replace(RUNNING, partition="spare"),
    }
    assert [name for name, job in running.items() if jobs.counts(job, limit, "root")] == [*counted]


def elsewhere(limits: Limits, *, others: Sequence[Job] = ()) -> list[Change]:
    """What is offered to 15 tasks beside a smaller walltime, where `others` run in all of it."""
    queue = [replace(PENDING, reason="QOSGrpGRESRunMinutes")] * 15
    (delay,) = reasons.explain(queue, limits, lambda _: others)
    return list(delay.changes[1:])


def test_a_qos_that_counts_minutes_more_than_once_is_reckoned_with() -> None:
    here = site(RUN_MINUTES)
    double = replace(here, qos=(Qos(name="normal", usage_factor=2), Qos(name="high")))
    other = replace(RUNNING, array="7", user="eve", qos="high", minutes_left=60)
    delay = explain("AssocGrpGRESRunMinutes", double, waiting=15, running=1, others=[other])
    assert delay.text == (
        "15 workers x 2h x 1 GPU under QOS normal, which counts each minute 2 times ask for 3,600"
        " GPU-minutes; account big may have 600 GPU-minutes running (GrpTRESRunMins), and 300 are"
        " taken (240 by this study)"
    )
    assert delay.changes[0].effect == "with --time 10m all 15 start now"  # 300 / 15 / 2
    alone = explain("AssocGrpGRESRunMinutes", site(replace(RUN_MINUTES, value=200)), waiting=1)
    assert alone.text.startswith("1 worker x 2h")
    never = replace(double, accounts=site(replace(RUN_MINUTES, value=200)).accounts)
    delay = explain("AssocGrpGRESRunMinutes", never, running=0)
    assert delay.never
    assert delay.changes[0].flags == ("-n", "15", "--time", "1h40m", "--instead")


def test_minutes_that_are_over_are_taken_until_slurm_counts_again() -> None:
    limits = replace(site(RUN_MINUTES), recount_minutes=5)
    others = [replace(RUNNING, array="7", minutes_left=left) for left in (117, 100)]
    delay = explain("AssocGrpGRESRunMinutes", limits, running=0, others=others)
    assert delay.text.endswith("and 225 are taken")  # 120, which is all of it, and 105


GRANT = replace(cap("GrpTRESMins", Measure.GRANT, 900, "gres/gpu"), granted=1000)


def test_what_is_left_of_a_grant_is_shown_with_the_walltime_that_fits_into_it() -> None:
    delay = explain("AssocGrpGRESMinutes", site(GRANT), waiting=8, running=7)
    assert delay.text == (
        "8 workers x 2h x 1 GPU ask for 960 GPU-minutes; account big has 900 of 1,000 GPU-minutes"
        " left (GrpTRESMins), and 840 are taken (all by this study)"
    )
    now, then = delay.changes
    assert now.effect == "with --time 7m all 8 start now"  # 60 / 8
    assert then.effect.startswith("with --time 54m all 15 run at once")  # 0.9 x 900 / 15


def test_one_that_asks_for_more_than_is_left_of_a_grant_may_yet_start() -> None:
    left = replace(GRANT, value=100)
    delay = explain("AssocGrpGRESMinutes", site(left), running=0)
    assert not delay.never
    assert delay.text == (
        "one of these alone asks for 120 GPU-minutes; account big has 100 of 1,000 GPU-minutes"
        " left (GrpTRESMins): they wait until there is more"
    )
    assert delay.changes[0].flags == ("-n", "15", "--time", "1h40m", "--instead")
    assert explain("AssocGrpGRESMinutes", site(replace(left, granted=110)), running=0).never


def test_a_task_whose_minutes_are_more_than_one_may_have_is_made_shorter() -> None:
    each = cap("MaxTRESMins", Measure.MINUTES_EACH, 40, "cpu", "normal")
    delay = explain("QOSMaxCpuMinutesPerJobLimit", site(each))
    assert delay.never
    assert "QOS normal allows a task 40 CPU-minutes (MaxTRESMins)" in delay.text
    assert delay.changes[0].flags == ("-n", "15", "--time", "40m", "--instead")


QOS_RUN_MINUTES = cap("GrpTRESRunMins", Measure.MINUTES, 600, "gres/gpu", "normal")


def with_qos(qos: Qos, *caps: Cap) -> Limits:
    """The site with one more QOS that account sub may use."""
    here = site(QOS_RUN_MINUTES, *caps)
    row = Association(account="sub", qos=("normal", qos.name))
    nodes, preempting = here.nodes[:1], Qos(name="high", preempts=("scavenge",))
    return replace(here, associations=(row,), nodes=nodes, qos=(*here.qos, qos, preempting))


def test_another_qos_without_the_limit_is_offered_with_its_price() -> None:
    (change,) = elsewhere(with_qos(Qos(name="scavenge", usage_factor=0.5)))
    assert change.effect == (
        "under QOS scavenge no limit holds them back; jobs of QOS high may preempt them; their"
        " hours count 0.5 times"
    )
    assert change.flags == ("-n", "15", "--qos", "scavenge", "--instead")
    assert not change.drain


def test_of_several_the_qos_that_costs_least_is_offered_and_one_that_preempts_says_so() -> None:
    high, dear = Qos(name="high", preempts=("normal",)), Qos(name="dear", usage_factor=2)
    here = with_qos(high, QOS_RUN_MINUTES)
    row = Association(account="sub", qos=("normal", "high", "dear", "cheap"))
    limits = replace(here, associations=(row,), qos=(here.qos[0], high))
    (change,) = elsewhere(limits)
    assert change.effect.endswith("; they may preempt jobs of QOS normal")
    (change,) = elsewhere(replace(limits, qos=(*limits.qos, dear)))
    assert change.effect.startswith("under QOS dear")
    (change,) = elsewhere(replace(limits, qos=(*limits.qos, dear, Qos(name="cheap"))))
    assert change.effect == "under QOS cheap no limit holds them back"


@pytest.mark.parametrize(
    ("of_qos", "others"),
    [
        (cap("GrpTRES", Measure.RESOURCES, 14, "gres/gpu", "scavenge"), 0),
        (cap("GrpTRES", Measure.RESOURCES, 20, "gres/gpu", "scavenge"), 6),
        (cap("MaxJobsPU", Measure.JOBS, 14, "", "scavenge"), 0),
        (cap("MaxSubmitPU", Measure.SUBMITTED, 14, "", "scavenge"), 0),
        (cap("MaxWall", Measure.WALLTIME, 60, "", "scavenge"), 0),
    ],
)
def test_a_qos_that_cannot_take_all_of_them_now_is_not_offered(of_qos: Cap, others: int) -> None:
    limits = with_qos(Qos(name="scavenge", caps=(of_qos,)))
    assert elsewhere(limits, others=[RUNNING] * others) == []


def test_a_qos_is_no_way_around_a_limit_of_the_account_or_of_the_partition() -> None:
    of_account = cap("GrpTRES", Measure.RESOURCES, 14, "gres/gpu")
    assert elsewhere(with_qos(Qos(name="scavenge"), of_account)) == []
    here = with_qos(Qos(name="scavenge"))
    closed = Partition(name="gpu", max_minutes=1440, allow_qos=("normal",))
    assert elsewhere(replace(here, partitions=(closed,))) == []


def test_another_account_is_offered_with_the_qos_that_it_runs_under() -> None:
    here = site(RUN_MINUTES)
    rows = (*here.associations, Association(account="own", qos=("long",), default_qos="long"))
    queue = [replace(PENDING, reason="AssocGrpGRESRunMinutes")] * 15
    qos = (*here.qos, Qos(name="long"))
    limits = replace(here, associations=rows, nodes=here.nodes[:1], qos=qos)
    (delay,) = reasons.explain(queue, limits, lambda _: [])
    assert delay.changes[-1].effect == "in account own no limit holds them back"
    assert delay.changes[-1].flags == (
        *("-n", "15", "--account", "own", "--qos", "long"),
        "--instead",
    )


def test_a_walltime_that_another_partition_allows_is_said_to_have_room_there() -> None:
    short = replace(site(), partitions=(Partition(name="gpu", max_minutes=60), *site().partitions))
    delay = explain("PartitionTimeLimit", short)
    assert [change.flags[2:4] for change in delay.changes] == [
        ("--time", "1h"),
        ("--partition", "spare"),
    ]


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("Priority", "other jobs come before"),
        ("Dependency", "earlier array"),
        ("BeginTime", "Slurm waits"),
        ("JobArrayTaskLimit", "max_running"),
        ("ReqNodeNotAvail, UnavailableNodes:n[1-2]", "(n[1-2])"),
        ("PartitionDown", "down, drained or reserved"),
        ("AssocGrpGRESMinutes", "used up"),
        ("QOSGrpCPUMinutesLimit", "used up"),
        ("FedJobLock", "https://slurm.schedmd.com/job_reason_codes.html"),
    ],
)
def test_every_other_reason_has_its_words_and_an_unknown_one_a_page(reason: str, word: str) -> None:
    delay = explain(reason, site())
    assert word in delay.text
    assert not delay.never


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "launch failed requeued held", "JobHoldMaxRequeue"]
)
def test_held_tasks_are_let_go_by_their_ids(reason: str) -> None:
    (change,) = explain(reason, site()).changes
    assert change.effect == "'scontrol release 124' lets them go"


def test_what_an_administrator_holds_no_user_can_let_go_and_no_start_is_expected() -> None:
    held = replace(PENDING, reason="JobHeldAdmin", start="2026-01-02T00:00:00")
    (delay,) = reasons.explain([held], site(), lambda _: [])
    assert (delay.changes, delay.start) == ((), None)
    assert "ask why" in delay.text


def test_a_dependency_that_cannot_come_is_replaced() -> None:
    delay = explain("DependencyNeverSatisfied", site())
    assert delay.never
    assert delay.changes[0].flags == ("-n", "15", "--instead")


def test_nothing_that_waits_is_no_delay() -> None:
    assert reasons.explain([RUNNING], site(), lambda limit: ()) == ()
