# ruff: noqa: E501 - the tables of sacctmgr stand as they come
"""What Slurm says of its limits: text of 22.05 from the development cluster, and as documented."""

from __future__ import annotations

import pytest

from hpoctl.backends.slurm import site
from hpoctl.limits import Limits, Measure, Nodes

# captured from Slurm 22.05.8
CONFIG = """\
Configuration data as of 2026-01-01T00:00:00
AccountingStorageEnforce = associations,limits,qos,safe
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages,gres/gpu
ClusterName             = dev
MaxArraySize            = 1001
MaxJobCount             = 20000
PriorityFlags           =
SLURM_VERSION           = 22.05.8
"""
PARTITIONS = (
    "PartitionName=gpu AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES"
    " QoS=N/A DefaultTime=00:10:00 MaxNodes=UNLIMITED MaxTime=1-00:00:00 Nodes=n[1-2] State=UP"
    " DefMemPerCPU=100 MaxMemPerNode=UNLIMITED TRES=cpu=32,mem=40000M,node=2,billing=16,gres/gpu=8"
    " TRESBillingWeights=CPU=0.25,Mem=0.5G,GRES/gpu=1.0\n"
    "PartitionName=long AllowAccounts=lab,sub DenyQos=tight Default=NO QoS=part_long"
    " MaxTime=UNLIMITED State=DOWN JobDefaults=(null)\n"
)
NODES = "gpu|16|20000|gpu:a100:4|2|idle\nlong|128|515000|(null)|1|down*\n"
USER = """\
Def Acct|Account|User|Partition|ParentName|GrpJobs|GrpSubmit|GrpTRES|GrpTRESRunMins|MaxJobs|MaxSubmit|MaxTRES|MaxWall|QOS|Def QOS
lab|sub|root|||||||4|6|||normal,tight|
lab|lab|root|long||||||||||normal|normal
"""
ACCOUNTS = """\
Cluster|Account|User|Partition|ParentName|GrpJobs|GrpSubmit|GrpTRES|GrpTRESRunMins|MaxJobs|MaxSubmit|MaxTRES|MaxWall|QOS|Def QOS
dev|root|||||||||||||normal|
dev|big|||root|||gres/gpu=12|billing=900,gres/gpu=600|||||normal|
dev|sub|||big||||||||||normal|
dev|lab|||root||||||||||normal|
other|lab|||root|1|||||||||normal|
"""
QOS = """\
Name|Priority|GraceTime|Preempt|PreemptExemptTime|PreemptMode|Flags|UsageThres|UsageFactor|GrpTRES|GrpTRESMins|GrpTRESRunMins|GrpJobs|GrpSubmit|GrpWall|MaxTRES|MaxTRESPerNode|MaxTRESMins|MaxWall|MaxTRESPU|MaxJobsPU|MaxSubmitPU|MaxTRESPA|MaxJobsPA|MaxSubmitPA|MinTRES
normal|0|00:00:00|||cluster|||1.000000|||||||||||||||||
tight|0|00:00:00|||cluster|DenyOnLimit,PartitionTimeLimit||1.000000|cpu=20||||||cpu=8,mem=4G|||01:00:00|gres/gpu=3|5|9||||
"""
# the shape of 24.11, with columns that 22.05 has not
QOS_24 = """\
Name|Priority|GraceTime|Preempt|PreemptExemptTime|PreemptMode|Flags|UsageThres|UsageFactor|GrpTRES|GrpTRESMins|GrpTRESRunMins|GrpJobs|GrpSubmit|GrpWall|MaxTRES|MaxTRESPerNode|MaxTRESMins|MaxWall|MaxTRESPU|MaxJobsPU|MaxSubmitPU|MaxTRESPA|MaxTRESRunMinsPA|MaxTRESRunMinsPU|MaxJobsPA|MaxSubmitPA|MinTRES|LimitFactor
busy|10|00:05:00|low,idle||cluster|DenyOnLimit||1.000000|||gres/gpu:a100=60000|||||node=1||2-00:00:00|||||gres/gpu=9|gres/gpu=7|||gres/gpu=1|
"""


def parse(qos: str = QOS) -> Limits:
    return site.parse(CONFIG, PARTITIONS, NODES, USER, ACCOUNTS, qos, "", user="root")


def test_the_configuration_names_sizes_and_what_is_enforced() -> None:
    limits = parse()
    assert (limits.version, limits.tasks_per_array, limits.tasks_in_all) == ("22.05.8", 1001, 20000)
    assert limits.enforced == {"associations", "limits", "qos", "safe"}
    assert (limits.user, limits.default_account) == ("root", "lab")


def test_partitions_with_their_walltime_weights_and_who_may_use_them() -> None:
    gpu, long = parse().partitions
    assert (gpu.default, gpu.up, gpu.max_minutes, gpu.qos) == (True, True, 1440, None)
    assert gpu.weights == {"cpu": 0.25, "mem": 0.5 / 1024, "gres/gpu": 1.0}
    assert gpu.mb_per_cpu == 100
    assert (long.default, long.up, long.max_minutes, long.qos) == (False, False, None, "part_long")
    assert (long.allow_accounts, long.deny_qos) == (("lab", "sub"), ("tight",))


def test_nodes_with_their_gpus() -> None:
    gpu, long = parse().nodes
    assert gpu == Nodes(
        partition="gpu", count=2, cpus=16, mem_mb=20000, gpus={"a100": 4}, state="idle"
    )
    assert (long.gpus, long.state) == ({}, "down")


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("(null)", {}),
        ("gpu:4", {"": 4}),
        ("gpu:a100:4", {"a100": 4}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:A100fat:4(S:0,1),lustre:1", {"A100fat": 4}),
        ("gpu:v100:2(S:0),gpu:t4:8(S:1)", {"v100": 2, "t4": 8}),
        ("gpu:nvidia_h100_80gb_hbm3:8(S:0-7),shard:64", {"nvidia_h100_80gb_hbm3": 8}),
        ("craynetwork:4", {}),
    ],
)
def test_gres_of_nodes_as_clusters_write_them(gres: str, gpus: dict[str, int]) -> None:
    assert site.parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("1-00:00:00", 1440),
        ("7-12:30:00", 10830),
        ("00:05:00", 5),
        ("30:00", 30),
        ("00:00:30", 1),
        ("UNLIMITED", None),
        ("NONE", None),
        ("", None),
    ],
)
def test_walltimes_as_slurm_writes_them(text: str, minutes: int | None) -> None:
    assert site.minutes(text) == minutes


def test_limits_of_an_account_count_the_accounts_below_it() -> None:
    big = next(account for account in parse().accounts if account.name == "big")
    assert [(cap.name, cap.resource, cap.value) for cap in big.caps] == [
        ("GrpTRES", "gres/gpu", 12),
        ("GrpTRESRunMins", "billing", 900),
        ("GrpTRESRunMins", "gres/gpu", 600),
    ]
    assert {cap.accounts for cap in big.caps} == {("big", "sub")}
    assert [cap.measure for cap in big.caps][1:] == [Measure.MINUTES, Measure.MINUTES]


def test_another_cluster_of_the_same_database_sets_no_limits_here() -> None:
    assert [a.caps for a in parse().accounts if a.name == "lab"] == [()]


def test_limits_of_a_user_are_the_users_own() -> None:
    sub, lab = parse().associations
    assert [(cap.name, cap.value, cap.mine) for cap in sub.caps] == [
        ("MaxJobs", 4, True),
        ("MaxSubmit", 6, True),
    ]
    assert (sub.qos, lab.partition, lab.default_qos) == (("normal", "tight"), "long", "normal")


def test_limits_of_a_qos_with_memory_in_megabytes() -> None:
    tight = parse().qos[1]
    assert tight.flags == ("DenyOnLimit", "PartitionTimeLimit")
    assert {(cap.name, cap.resource): cap.value for cap in tight.caps} == {
        ("GrpTRES", "cpu"): 20,
        ("MaxTRES", "cpu"): 8,
        ("MaxTRES", "mem"): 4096,
        ("MaxWall", ""): 60,
        ("MaxTRESPU", "gres/gpu"): 3,
        ("MaxJobsPU", ""): 5,
        ("MaxSubmitPU", ""): 9,
    }


def test_columns_of_later_releases_are_found_by_their_heads() -> None:
    (busy,) = parse(QOS_24).qos
    assert {(cap.name, cap.resource): (cap.measure, cap.value) for cap in busy.caps} == {
        ("GrpTRESRunMins", "gres/gpu:a100"): (Measure.MINUTES, 60000),
        ("MaxTRESPerNode", "node"): (Measure.EACH, 1),
        ("MaxWall", ""): (Measure.WALLTIME, 2880),
        ("MaxTRESRunMinsPA", "gres/gpu"): (Measure.MINUTES, 9),
        ("MaxTRESRunMinsPU", "gres/gpu"): (Measure.MINUTES, 7),
    }


def test_a_site_without_accounting_still_tells_its_sizes() -> None:
    limits = site.parse(CONFIG, PARTITIONS, NODES, "", "", "", "", user="ada")
    assert limits.tasks_per_array == 1001
    assert (limits.associations, limits.accounts, limits.qos) == ((), (), ())


def test_a_site_that_answers_nothing_sets_no_limits() -> None:
    assert site.parse("", "", "", "", "", "", "", user="ada") == Limits()
