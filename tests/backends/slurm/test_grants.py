# ruff: noqa: E501 - what Slurm says stands as it comes
"""What is left of grants: which are asked for, and Slurm's books as it shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpoctl.backends.slurm import grants
from hpoctl.limits import Account, Association, Cap, Limits, Measure, Qos

# captured from Slurm 22.05.8: scontrol --oneliner show assoc_mgr flags=assoc,qos accounts=gr qos=gq
TOLD = """\
Current Association Manager state
Association Records
ClusterName=dev Account=gr UserName= Partition= Priority=0 ID=8 SharesRaw/Norm/Level/Factor=1/0.25/4/0.00 UsageRaw/Norm/Efctv=160.00/1.00/0.00 ParentAccount=root(1) Lft=2 DefAssoc=No GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs=N(0) GrpWall=N(0.67) GrpTRES=cpu=N(0),mem=N(0),energy=N(0),node=N(0),billing=N(0),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=N(0) GrpTRESMins=cpu=100(10),mem=N(1066),energy=N(0),node=N(0),billing=N(2),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=1000(1200) GrpTRESRunMins=cpu=N(0),mem=N(0),energy=N(0),node=N(0),billing=N(0),fs/disk=N(0),vmem=N(0),pages=N(0),gres/gpu=N(0) MaxJobs= MaxJobsAccrue= MaxSubmitJobs= MaxWallPJ= MaxTRESPJ= MaxTRESPN= MaxTRESMinsPJ= MinPrioThresh=
ClusterName=dev Account=gr UserName=eve(1001) Partition= Priority=0 ID=10 SharesRaw/Norm/Level/Factor=1/0.50/2/0.00 UsageRaw/Norm/Efctv=0.00/1.00/0.00 ParentAccount= Lft=3 DefAssoc=Yes GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs=N(0) GrpWall=N(0.00) GrpTRES=cpu=N(0) GrpTRESMins=cpu=N(3),gres/gpu=N(0) GrpTRESRunMins=cpu=N(0)

Current Association Manager state
QOS Records
QOS=gq(10) UsageRaw=0.000000 GrpJobs=N(0) GrpJobsAccrue=N(0) GrpSubmitJobs=N(0) GrpWall=N(0.00) GrpTRES=cpu=N(0) GrpTRESMins=cpu=50(0),mem=N(0),gres/gpu=N(0) GrpTRESRunMins=cpu=N(0),mem=N(0) MaxWallPJ= MaxTRESPJ= MaxTRESPN= MaxTRESMinsPJ=cpu=40 MinPrioThresh=  MinTRESPJ= PreemptMode=OFF Priority=0 Account Limits=No Accounts User Limits=No Users
"""


def grant(resource: str, value: int, holder: str = "account gr") -> Cap:
    measure = Measure.GRANT
    return Cap(name="GrpTRESMins", holder=holder, measure=measure, value=value, resource=resource)


JOBS = Cap(name="MaxJobs", holder="account gr", measure=Measure.JOBS, value=3)
LIMITS = Limits(
    user="eve",
    enforced=frozenset({"limits", "safe"}),
    associations=(Association(account="gr", caps=(grant("cpu", 9),)),),
    accounts=(
        Account(name="gr", parent="root", caps=(JOBS, grant("cpu", 100), grant("gres/gpu", 1000))),
        Account(name="root"),
        Account(name="others", caps=(grant("cpu", 5),)),
    ),
    qos=(Qos(name="gq", caps=(grant("cpu", 50, "QOS gq"),)), Qos(name="normal")),
)


def amounts(caps: tuple[Cap, ...]) -> list[tuple[str, int, int | None]]:
    return [(cap.resource, cap.value, cap.granted) for cap in caps]


@pytest.mark.parametrize("told", [TOLD, TOLD.replace("Lft=2", "Lineage=/gr/")])  # as later releases
def test_what_is_used_up_is_taken_off_each_grant(told: str) -> None:
    settled = grants.settle(LIMITS, told)
    of_gr = settled.accounts[0]
    assert amounts(of_gr.caps) == [("", 3, None), ("cpu", 90, 100), ("gres/gpu", 0, 1000)]
    assert amounts(settled.associations[0].caps) == [("cpu", 6, 9)]
    assert amounts(settled.qos[0].caps) == [("cpu", 50, 50)]


def test_a_grant_of_which_nothing_is_told_refuses_nothing() -> None:
    settled = grants.settle(LIMITS, "")
    assert settled.accounts[0].caps == (JOBS,)
    assert settled.accounts[2].caps == settled.qos[0].caps == ()


def test_where_accounting_is_not_safe_a_grant_counts_only_once_it_is_used_up() -> None:
    settled = grants.settle(replace(LIMITS, enforced=frozenset({"limits"})), TOLD)
    assert amounts(settled.accounts[0].caps) == [("", 3, None), ("gres/gpu", 0, 1000)]


def test_slurm_is_asked_of_this_users_grants_alone_and_not_where_there_are_none() -> None:
    asked = ["scontrol", "--oneliner", "show", "assoc_mgr"]
    flags = ["flags=assoc,qos", "accounts=gr", "qos=gq"]
    assert grants.question(LIMITS) == [*asked, *flags]
    assert grants.question(replace(LIMITS, qos=())) == [*asked, "flags=assoc", "accounts=gr"]
    elsewhere = (Association(account="root"),)
    assert grants.question(replace(LIMITS, associations=elsewhere, qos=LIMITS.qos[1:])) is None


@pytest.mark.parametrize("granted", [None, 100])
def test_a_grant_bounds_a_task_by_what_there_was(granted: int | None) -> None:
    assert replace(grant("cpu", 40), granted=granted).most == (granted or 40)
