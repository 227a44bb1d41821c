# ruff: noqa: E501 - the tables of sacctmgr stand as they come
"""What hpoctl reads of Slurm in the words of its releases, from 20.11 to 25.05.

Only 22.05 has been run: what was captured of it stands in `test_site`, `test_queue`, `test_fate` and
`test_reasons`, and the integration tests talk to it. The samples here are small and our own. They
are written as the functions of each release print, read in Slurm's source at the last tag of 20.11,
21.08, 22.05, 23.02, 23.11, 24.05, 24.11 and 25.05:

- states of jobs (`squeue`, `sacct`) and of nodes (`sinfo`): `slurm_protocol_defs.c`;
- reasons: `job_reason_string`, since 24.05 `job_state_reason.c`;
- words for times and walltimes: `squeue/print.c`, `parse_time.c`;
- heads and usual columns of tables: `sacctmgr/common.c`, `sacctmgr/qos_functions.c`;
- partitions and configuration: `partition_info.c`, `config_info.c`.

Published output of real clusters is behind these: the configuration and partitions of 20.11.6 (tests
of hpcugent/vsc-administration), 23.02.7 and 25.05.9 (notes and tests of users of such clusters), the
version line of 24.05.4, the node of 21.08.6 (an issue of PKUHPC/CraneSched), node states of 21.08
(aws-parallelcluster-node). No output of a real 23.11 or 24.11 was found for what is read here: these
two stand on the source alone. hpoctl reads no `scontrol show job` and no `scontrol show node`.
"""

from __future__ import annotations

import pytest

from hpoctl.backends.slurm import accounting, jobs, queue, reasons, site
from hpoctl.backends.slurm.end import parse_end
from hpoctl.backends.slurm.jobs import Job
from hpoctl.limits import Account, Association, Cap, Limits, Measure, Qos
from hpoctl.record import TaskState

from ..conftest import squeue_line

RELEASES = ("20.11", "21.08", "22.05", "23.02", "23.11", "24.05", "24.11", "25.05")


def since(release: str) -> list[str]:
    return [known for known in RELEASES if known >= release]


# Of every release: one state that is over, or that runs or waits; 20.11 had REQUEUED_CRON besides.
OVER = "COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED BOOT_FAIL DEADLINE OUT_OF_MEMORY"
LASTING = (
    "PENDING RUNNING SUSPENDED COMPLETING CONFIGURING RESIZING REQUEUED REQUEUE_FED REQUEUE_HOLD"
    " SPECIAL_EXIT STAGE_OUT STOPPED REVOKED RESV_DEL_HOLD SIGNALING REQUEUED_CRON"
)


@pytest.mark.parametrize("state", [*OVER.split(), *LASTING.split()])
def test_a_task_has_ended_in_the_states_that_are_over_and_in_no_other(state: str) -> None:
    line = squeue_line(job="7", index="0", state=state, start="1000", end="2000")
    (task,) = queue.parse(line)
    assert (task.ended_at is not None) == (state in OVER)
    assert (task.state is TaskState.UNKNOWN) == (state not in set(TaskState))
    assert task.started_at == (None if state == "PENDING" else 1000.0)


@pytest.mark.parametrize("state", OVER.split())
def test_accounting_names_the_same_ends(state: str) -> None:
    by = " by 1000" if state == "CANCELLED" else ""
    text = (
        f"7_0|1000|1000|1020|{state}{by}|20|cpu=1,mem=1G,node=1,gres/gpu=1,gres/gpu:h100=1|cpu=1\n"
        "7_1|1000|1000|Unknown|RUNNING|5||\n"  # 20.11 to 25.05: a time of 0 is Unknown
        "7_[2-9%4]|1000|Unknown|Unknown|PENDING|0||cpu=1\n"
    )
    (_, ended), (_, runs) = accounting.parse(text)
    assert (ended.state, ended.ended_at, ended.gpus) == (TaskState(state), 1020.0, 1)
    assert (runs.ended_at, runs.gpus) == (None, None)


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [
        ("cpu=8,mem=64G,node=1,billing=8,gres/gpu=2", 2),  # 20.11
        ("cpu=8,mem=64G,node=1,billing=8,gres/gpu:a100=4,gres/gpu=4", 4),
        ("cpu=8,mem=64000M,node=1,gres/gpu=4,gres/gpu:nvidia_h100_80gb_hbm3=4", 4),  # 23.11
        ("cpu=8,mem=64G,node=1,gres/gpu:a100_1g.5gb=7", 7),
        ("cpu=8,mem=64G,node=1,gres/gpu=1,gres/gpumem=80G,gres/shard=4", 1),  # 21.08, 22.05
        ("", None),
    ],
)
def test_gpus_that_were_given(tres: str, gpus: int | None) -> None:
    (task,) = queue.parse(squeue_line(job="7", index="0", state="RUNNING", tres=tres))
    assert task.gpus == gpus


@pytest.mark.parametrize("word", ["N/A", "NONE", "Unknown", "None", "", "(null)", "0"])
def test_a_time_that_is_not_known(word: str) -> None:
    assert parse_end(word) is None


@pytest.mark.parametrize("word", ["UNLIMITED", "NOT_SET", "INVALID", "Partition_Limit", "N/A"])
def test_a_walltime_without_a_number_counts_for_nothing(word: str) -> None:
    line = f"7|RUNNING|ada|lab|normal|gpu|{word}|{word}|N/A|cpu=1,mem=1G,node=1|None|"
    (job,) = jobs.parse(line)
    assert (job.minutes, job.minutes_left, job.start) == (0, 0, None)


# A mark for each: not responding, powered down, powering up and down, maintenance, reboot, asked to
# reboot or to power down, planned by backfill. `^`, `!` and `-` are there since 21.08.
@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("idle", "idle"),
        ("idle~", "idle"),
        ("idle#", "idle"),
        ("idle*", "not responding"),
        ("mixed*", "not responding"),
        ("mixed-", "mixed"),
        ("allocated+", "allocated"),
        ("allocated@", "allocated"),
        ("down*", "down"),
        ("down!", "down"),
        ("down%", "down"),
        ("drained$", "drained"),
        ("draining^", "draining"),
        ("maint*", "maint"),
        ("reserved", "reserved"),
        ("power_down", "power_down"),  # 20.11
        ("powered_down", "powered_down"),  # since 21.08
        ("planned", "planned"),  # since 21.08
        ("inval", "inval"),  # since 21.08
        ("blocked", "blocked"),  # since 24.05
        ("external", "external"),  # 25.05
    ],
)
def test_states_of_nodes_without_their_marks(word: str, state: str) -> None:
    (node,) = site.parse_nodes(f"gpu|64|512000|gpu:h100:4(S:0-1)|2|{word}\n")
    assert (node.state, node.gpus) == (state, {"h100": 4})


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:a100:2(S:0),gpu:a100:2(S:1)", {"a100": 4}),
        ("gpu:a100_1g.5gb:7(S:0)", {"a100_1g.5gb": 7}),
        ("gpu:nvidia_h100_nvl:4(S:0-3),shard:nvidia_h100_nvl:16(S:0-3)", {"nvidia_h100_nvl": 4}),
        ("gpu:2", {"": 2}),
        ("gpu(S:0)", {"": 1}),
        ("tmp:844G", {}),
        ("", {}),
    ],
)
def test_gpus_of_nodes(gres: str, gpus: dict[str, int]) -> None:
    assert site.parse_gpus(gres) == gpus


# sacctmgr -P show qos: the usual columns; 24.05 put two among them.
QOS = "Name|Priority|GraceTime|Preempt|PreemptExemptTime|PreemptMode|Flags|UsageThres|UsageFactor|GrpTRES|GrpTRESMins|GrpTRESRunMins|GrpJobs|GrpSubmit|GrpWall|MaxTRES|MaxTRESPerNode|MaxTRESMins|MaxWall|MaxTRESPU|MaxJobsPU|MaxSubmitPU|MaxTRESPA|{more}MaxJobsPA|MaxSubmitPA|MinTRES"
BUSY = "busy|10|00:00:00|||cluster|DenyOnLimit||1.000000|||gres/gpu=600|||||gres/gpu=2||2-00:00:00|gres/gpu=4|8|16|cpu=64|{more}3|6|gres/gpu=1"


@pytest.mark.parametrize("release", RELEASES)
def test_limits_of_a_qos(release: str) -> None:
    later = release in since("24.05")
    heads = QOS.format(more="MaxTRESRunMinsPA|MaxTRESRunMinsPU|" if later else "")
    row = BUSY.format(more="cpu=900|gres/gpu=90|" if later else "")
    (qos,) = site.parse("", "", "", "", "", f"{heads}\n{row}\n", "", user="ada").qos
    found = {(cap.name, cap.resource): cap.value for cap in qos.caps}
    more = {("MaxTRESRunMinsPA", "cpu"): 900, ("MaxTRESRunMinsPU", "gres/gpu"): 90}
    assert found == {
        ("GrpTRESRunMins", "gres/gpu"): 600,
        ("MaxTRESPerNode", "gres/gpu"): 2,
        ("MaxWall", ""): 2880,
        ("MaxTRESPU", "gres/gpu"): 4,
        ("MaxJobsPU", ""): 8,
        ("MaxSubmitPU", ""): 16,
        ("MaxTRESPA", "cpu"): 64,
        ("MaxJobsPA", ""): 3,
        ("MaxSubmitPA", ""): 6,
        **(more if later else {}),
    }


@pytest.mark.parametrize("release", RELEASES)
def test_an_accounts_limits_count_those_below_it(release: str) -> None:
    parent = "Par Name" if release == "20.11" else "ParentName"
    table = (
        f"Cluster|Account|User|Partition|{parent}|GrpJobs|GrpSubmit|GrpTRES|GrpTRESRunMins|MaxJobs"
        "|MaxSubmit|MaxTRES|MaxWall|QOS|Def QOS\n"
        "dev|root|||||||||||||normal|\n"
        "dev|big|||root|||gres/gpu=12||||||normal|\n"
        "dev|sub|||big||||||||||normal|\n"
    )
    accounts = site.parse("ClusterName = dev\n", "", "", "", table, "", "", user="ada").accounts
    assert {account.name: account.parent for account in accounts} == {
        "root": None,
        "big": "root",
        "sub": "big",
    }
    (cap,) = accounts[1].caps
    assert (cap.name, cap.value, cap.accounts) == ("GrpTRES", 12, ("big", "sub"))


def waiting(reason: str) -> Job:
    return Job(
        array="7",
        running=False,
        user="ada",
        account="lab",
        qos="normal",
        partition="gpu",
        minutes=60,
        minutes_left=60,
        start=None,
        needs={"cpu": 4, "mem": 4096, "node": 1, "billing": 4, "gres/gpu": 1},
        reason=reason,
    )


def limit(name: str, measure: Measure, resource: str = "", qos: str | None = "normal") -> Cap:
    holder = f"QOS {qos}" if qos else "account lab"
    accounts = () if qos else ("lab",)
    return Cap(
        name=name,
        holder=holder,
        measure=measure,
        value=1,
        resource=resource,
        qos=qos,
        accounts=accounts,
    )


MINUTES, RESOURCES = Measure.MINUTES, Measure.RESOURCES


@pytest.mark.parametrize(
    ("reason", "cap"),
    [
        ("QOSMaxGRESPerUser", limit("MaxTRESPU", RESOURCES, "gres/gpu")),
        ("QOSMaxCpuPerUserLimit", limit("MaxTRESPU", RESOURCES, "cpu")),
        ("QOSMaxMemoryPerUser", limit("MaxTRESPU", RESOURCES, "mem")),
        ("MaxGRESPerAccount", limit("MaxTRESPA", RESOURCES, "gres/gpu")),
        ("MaxJobsPerAccount", limit("MaxJobsPA", Measure.JOBS)),
        ("QOSGrpGRES", limit("GrpTRES", RESOURCES, "gres/gpu")),
        ("QOSGrpMemLimit", limit("GrpTRES", RESOURCES, "mem")),
        ("QOSGrpNodeLimit", limit("GrpTRES", RESOURCES, "node")),
        ("QOSGrpMemoryRunMinutes", limit("GrpTRESRunMins", MINUTES, "mem")),
        ("QOSMaxGRESPerJob", limit("MaxTRES", Measure.EACH, "gres/gpu")),
        ("QOSMaxGRESPerNode", limit("MaxTRESPerNode", Measure.EACH, "gres/gpu")),
        ("AssocGrpGRES", limit("GrpTRES", RESOURCES, "gres/gpu", None)),
        ("AssocGrpMemLimit", limit("GrpTRES", RESOURCES, "mem", None)),
        ("AssocGrpBillingRunMinutes", limit("GrpTRESRunMins", MINUTES, "billing", None)),
        ("AssocGrpJobsLimit", limit("GrpJobs", Measure.JOBS, "", None)),
        ("AssocGrpCPUMinutesLimit", limit("GrpTRESMins", Measure.GRANT, "cpu", None)),
        ("AssocGrpGRESMinutes", limit("GrpTRESMins", Measure.GRANT, "gres/gpu", None)),
        ("QOSGrpBillingMinutes", limit("GrpTRESMins", Measure.GRANT, "billing")),
        ("QOSMaxCpuMinutesPerJobLimit", limit("MaxTRESMins", Measure.MINUTES_EACH, "cpu")),
        ("AssocMaxGRESMinutesPerJob", limit("MaxTRESMins", Measure.MINUTES_EACH, "gres/gpu", None)),
        # since 24.05
        ("MaxGRESRunMinsPerUser", limit("MaxTRESRunMinsPU", MINUTES, "gres/gpu")),
        ("MaxCpuRunMinsPerAccount", limit("MaxTRESRunMinsPA", MINUTES, "cpu")),
        ("MaxMemoryRunMinsPerUser", limit("MaxTRESRunMinsPU", MINUTES, "mem")),
    ],
)
def test_a_reason_names_the_limit_of_the_site(reason: str, cap: Cap) -> None:
    limits = Limits(
        enforced=frozenset({"limits"}),
        associations=(Association(account="lab", qos=("normal",)),),
        accounts=(Account(name="lab", caps=(cap,) if cap.qos is None else ()),),
        qos=(Qos(name="normal", caps=(cap,) if cap.qos else ()),),
    )
    (delay,) = reasons.explain([waiting(reason)] * 3, limits, lambda cap: ())
    assert f"({cap.name})" in delay.text


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (  # 25.05 has ", BLOCKED" in it where there are such nodes
            "Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions",
            "are down, drained or reserved",
        ),
        ("ReqNodeNotAvail, May be reserved for other job", "are down, drained or reserved"),
        ("ReqNodeNotAvail, UnavailableNodes:a[1-3,7]", "(a[1-3,7])"),
        ("job requeued in held state", "are held"),
        ("launch failed requeued held", "are held"),
        ("ReservationInvalid", "cannot be used"),  # since 23.02
        ("MaxPoweredUpNodes", "job_reason_codes"),  # since 24.05
        ("MpiPortsBusy", "job_reason_codes"),
        ("PartitionConfig", "job_reason_codes"),
    ],
)
def test_a_reason_that_is_no_limit_has_words_too(reason: str, said: str) -> None:
    (delay,) = reasons.explain([waiting(reason)], Limits(), lambda cap: ())
    assert said in delay.text


def configuration(version: str) -> str:
    """The lines that are read; `AccountingStorageEnforce` and the like are the same in all."""
    return (
        "Configuration data as of 2026-01-01T00:00:00\nAccountingStorageEnforce = associations,"
        "limits,qos,safe\nClusterName             = mine\nMaxArraySize            = 1001\n"
        "MaxJobCount             = 10000\nPriorityFlags           = MAX_TRES\n"
        f"SLURM_VERSION           = {version}\n\nSlurmctld(primary) at ctl01 is UP\n"
    )


# Fields that 21.08 (ResumeTimeout), 22.05 (TRES), 23.02 (MaxCPUsPerSocket), 24.05 (ExclusiveTopo) and
# 25.05 (Topology) added stand between those that are read.
PARTITION = (
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=lab,sub AllowQos=ALL AllocNodes=ALL Default=YES"
    " QoS=N/A DefaultTime=01:00:00 DisableRootJobs=NO ExclusiveUser=NO{topo} GraceTime=0 Hidden=NO"
    " MaxNodes=UNLIMITED MaxTime=3-00:00:00 MinNodes=0 LLN=NO MaxCPUsPerNode=UNLIMITED{socket}"
    " Nodes=n[1-4] PriorityJobFactor=1 PriorityTier=1 RootOnly=NO ReqResv=NO OverSubscribe=NO"
    " OverTimeLimit=NONE PreemptMode=OFF{layout} State=UP TotalCPUs=256 TotalNodes=4"
    " SelectTypeParameters=NONE JobDefaults=(null) DefMemPerCPU=4000 MaxMemPerNode=UNLIMITED"
    "{tres} TRESBillingWeights=CPU=1.0,Mem=0.25G,GRES/gpu=16{resume}\n"
)


@pytest.mark.parametrize("release", RELEASES)
def test_partitions_and_sizes(release: str) -> None:
    partition = PARTITION.format(
        socket=" MaxCPUsPerSocket=UNLIMITED" if release >= "23.02" else "",
        topo=" ExclusiveTopo=NO" if release >= "24.05" else "",
        layout=" Topology=default" if release >= "25.05" else "",
        tres=" TRES=cpu=256,mem=2T,node=4,gres/gpu=16" if release >= "22.05" else "",
        resume=" ResumeTimeout=GLOBAL SuspendTime=INFINITE" if release >= "21.08" else "",
    )
    config = configuration(f"{release}.3")
    limits = site.parse(config, partition, "", "", "", "", "", user="ada")
    assert (limits.version, limits.tasks_per_array, limits.tasks_in_all) == (
        f"{release}.3",
        1001,
        10000,
    )
    assert limits.highest_weight_bills
    assert limits.enforced == {"associations", "limits", "qos", "safe"}
    (gpu,) = limits.partitions
    assert (gpu.default, gpu.up, gpu.max_minutes, gpu.qos) == (True, True, 4320, None)
    assert (gpu.allow_accounts, gpu.mb_per_cpu) == (("lab", "sub"), 4000)
    assert gpu.weights == pytest.approx({"cpu": 1.0, "mem": 0.25 / 1024, "gres/gpu": 16.0})


# Fields and spellings as published of real clusters, with names of our own and without what nobody reads.
PUBLISHED: dict[str, tuple[str, str, dict[str, object], dict[str, float]]] = {
    "20.11.6": (
        "Configuration data as of 2022-04-27T10:07:02\nAccountingStorageEnforce = associations\n"
        "ClusterName             = mine\nSLURM_VERSION           = 20.11.6\n\n"
        "Cgroup Support Configuration:\nAllowedRAMSpace         = 100.0%\n",
        "PartitionName=work AllowGroups=a,b AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES"
        " QoS=N/A DefaultTime=01:00:00 DisableRootJobs=YES MaxTime=3-00:00:00 Nodes=n1,n2"
        " OverTimeLimit=NONE PreemptMode=OFF State=UP JobDefaults=(null) DefMemPerCPU=800"
        " MaxMemPerNode=3200 TRESBillingWeights=CPU=1,Mem=1.33G\n",
        {"max_minutes": 4320, "mb_per_cpu": 800, "qos": None, "up": True},
        {"cpu": 1.0, "mem": 1.33 / 1024},
    ),
    "23.02.7": (
        "Configuration data as of 2024-01-10T12:00:00\nAccountingStorageEnforce = associations,limits,"
        "qos,safe\nMaxArraySize            = 1001\nSlurmctldParameters     = (null)\n"
        "SLURM_VERSION           = 23.02.7\nSuspendTime             = INFINITE\n",
        "PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllowQos=short,long AllocNodes=ALL"
        " Default=NO QoS=N/A DefaultTime=01:00:00 MaxTime=1-00:00:00 Nodes=nid[001000,001002]"
        " OverSubscribe=NO State=UP JobDefaults=DefMemPerGPU=29440 DefMemPerNode=UNLIMITED"
        " TRES=cpu=512,mem=980000M,node=4,billing=2048,gres/gpu=32"
        " TRESBillingWeights=CPU=1,gres/GPU=64\n",
        {"max_minutes": 1440, "mb_per_cpu": None, "allow_qos": ("short", "long"), "up": True},
        {"cpu": 1.0, "gres/gpu": 64.0},
    ),
    "25.05.9": (
        "Configuration data as of 2026-10-07T13:00:00\nClusterName             = mine\n"
        "PriorityWeightTRES      = cpu=15000,gres/gpu=15000\nSLURM_VERSION           = 25.05.9\n"
        "Slurmctld(primary) at ctl01 is UP\n",
        "PartitionName=own AllowGroups=lab,admins AllowAccounts=lab-a,lab-b DenyQos=low AllowQos=ALL"
        " Default=YES QoS=interac DefaultTime=NONE MaxNodes=UNLIMITED MaxTime=UNLIMITED Nodes=rack1"
        " PriorityTier=1 State=DRAIN TRES=cpu=64,mem=86520000M,node=1,gres/gpu=4"
        " TRESBillingWeights=cpu=1016.67,mem=48.41G\n",
        {"max_minutes": None, "qos": "interac", "deny_qos": ("low",), "up": False},
        {"cpu": 1016.67, "mem": 48.41 / 1024},
    ),
}


@pytest.mark.parametrize("version", PUBLISHED)
def test_partitions_and_configuration_as_published(version: str) -> None:
    config, partitions, known, weights = PUBLISHED[version]
    limits = site.parse(config, partitions, "", "", "", "", "", user="ada")
    assert limits.version == version
    (partition,) = limits.partitions
    assert {name: getattr(partition, name) for name in known} == known
    assert partition.weights == pytest.approx(weights)
