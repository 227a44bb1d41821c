"""What a cluster allows, asked as an ordinary user: one command each, all at once.

Tables of sacctmgr come with their heads (`-P`), so that a column which a release lacks is a limit
that is not known. Every question may stay without an answer; then there is less to refuse by.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from hpoctl.backends.slurm import grants
from hpoctl.backends.slurm.ask import NotHere, ask
from hpoctl.errors import BatchSystemError
from hpoctl.limits import (
    Account,
    Association,
    Cap,
    Limits,
    Measure,
    Nodes,
    Partition,
    Qos,
    megabytes,
)

TIMEOUT_S = 5  # a plan without limits is better than none
_NO_ACCOUNTING = re.compile("not running a supported accounting_storage plugin", re.IGNORECASE)
_OF_ASSOCIATIONS = (
    "Account,User,Partition,ParentName,GrpJobs,GrpSubmit,GrpTRES,GrpTRESMins,GrpTRESRunMins,"
    "MaxJobs,MaxSubmit,MaxTRES,MaxTRESMins,MaxWall,QOS,DefaultQOS"
)
_GROUP = {  # columns that count all tasks of an account, or of a QOS, together
    "GrpJobs": Measure.JOBS,
    "GrpSubmit": Measure.SUBMITTED,
    "GrpTRES": Measure.RESOURCES,
    "GrpTRESMins": Measure.GRANT,
    "GrpTRESRunMins": Measure.MINUTES,
}
_OWN = {"MaxJobs": Measure.JOBS, "MaxSubmit": Measure.SUBMITTED}  # of one user's tasks
_PER_USER = {
    "MaxJobsPU": Measure.JOBS,
    "MaxSubmitPU": Measure.SUBMITTED,
    "MaxTRESPU": Measure.RESOURCES,
    "MaxTRESRunMinsPU": Measure.MINUTES,
}
_PER_ACCOUNT = {
    "MaxJobsPA": Measure.JOBS,
    "MaxSubmitPA": Measure.SUBMITTED,
    "MaxTRESPA": Measure.RESOURCES,
    "MaxTRESRunMinsPA": Measure.MINUTES,
}
_EARLIER_HEADS = {"Par Name": "ParentName"}  # of 20.11
_ONE_TASK = {
    "MaxTRES": Measure.EACH,
    "MaxTRESPerNode": Measure.EACH,
    "MaxTRESMins": Measure.MINUTES_EACH,
    "MaxWall": Measure.WALLTIME,
}

Row = Mapping[str, str]


def answers(user: str) -> list[str | None]:
    """What `parse` reads, None for a question that Slurm did not answer now."""
    of_user = ["show", "user", user, "withassoc", f"format=DefaultAccount,{_OF_ASSOCIATIONS}"]
    questions = (
        ["scontrol", "show", "config"],
        ["scontrol", "--oneliner", "show", "partition"],
        ["sinfo", "--exact", "--noheader", "--format=%R|%c|%m|%G|%D|%T"],
        ["sacctmgr", "-P", *of_user],
        ["sacctmgr", "-P", "show", "assoc", "user=", f"format=Cluster,{_OF_ASSOCIATIONS}"],
        ["sacctmgr", "-P", "show", "qos"],
    )
    with ThreadPoolExecutor(len(questions)) as at_once:
        said = list(at_once.map(_answer, questions))
    grants_left = grants.question(_told(*(text or "" for text in said), user=user))
    # Some sites show users no one's usage: that is not asked again at every command.
    return [*said, (_answer(grants_left) if grants_left else None) or ""]


def _answer(question: list[str]) -> str | None:
    try:
        return ask(question, timeout_s=TIMEOUT_S)
    except NotHere:
        return ""
    except BatchSystemError as wrong:
        return "" if _NO_ACCOUNTING.search(str(wrong)) else None


def parse(*answers: str, user: str) -> Limits:
    """The answers put together."""
    *told, grants_left = answers
    return grants.settle(_told(*told, user=user), grants_left)


def _told(
    config: str, partitions: str, nodes: str, mine: str, accounts: str, qos: str, *, user: str
) -> Limits:
    """All but what is left of grants."""
    told = parse_config(config)
    cluster = told.get("ClusterName", "")
    rows = [row for row in _table(accounts) if row.get("Cluster", cluster) in ("", cluster)]
    of_user = _table(mine)
    default = next((row.get("Def Acct", "") for row in of_user), "")
    enforced = frozenset(re.findall(r"[a-z]+", told.get("AccountingStorageEnforce", "").lower()))
    if "safe" in enforced:
        enforced |= {"limits"}
    return Limits(
        version=told.get("SLURM_VERSION"),
        tasks_per_array=_number(told.get("MaxArraySize", "")),
        tasks_in_all=_number(told.get("MaxJobCount", "")),
        user=user if of_user else "",
        enforced=enforced,
        highest_weight_bills="MAX_TRES" in told.get("PriorityFlags", "").split(","),
        recount_minutes=minutes(told.get("PriorityCalcPeriod", "")) or 0,
        default_account=default or None,
        partitions=parse_partitions(partitions, told),
        nodes=parse_nodes(nodes),
        associations=tuple(_association(row) for row in of_user if row.get("Account")),
        accounts=_accounts(rows),
        qos=tuple(_qos(row) for row in _table(qos) if row.get("Name")),
    )


def parse_config(text: str) -> dict[str, str]:
    """The lines `Name = value` of `scontrol show config`."""
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def parse_partitions(text: str, config: Mapping[str, str]) -> tuple[Partition, ...]:
    """The lines of `scontrol --oneliner show partition`."""
    found = []
    for line in text.splitlines():
        told = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if "PartitionName" not in told:
            continue
        each = _number(told.get("DefMemPerCPU", "") or config.get("DefMemPerCPU", ""))
        found.append(
            Partition(
                name=told["PartitionName"],
                default=told.get("Default") == "YES",
                up=told.get("State", "UP") == "UP",
                max_minutes=minutes(told.get("MaxTime", "")),
                qos=_word(told.get("QoS", "")),
                allow_accounts=_names(told.get("AllowAccounts", "")),
                deny_accounts=_names(told.get("DenyAccounts", "")),
                allow_qos=_names(told.get("AllowQos", "")),
                deny_qos=_names(told.get("DenyQos", "")),
                weights=_weights(told.get("TRESBillingWeights", "")),
                mb_per_cpu=each,
            )
        )
    return tuple(found)


def parse_nodes(text: str) -> tuple[Nodes, ...]:
    """The lines `partition|cpus|memory|gres|nodes|state` of sinfo."""
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    return tuple(
        Nodes(
            partition=partition,
            cpus=int(cpus.rstrip("+")),
            mem_mb=int(mem.rstrip("+")),
            gpus=parse_gpus(gres),
            count=int(count),
            state=_state(state),
        )
        for partition, cpus, mem, gres, count, state in rows
    )


def _state(word: str) -> str:
    """A node's state without its mark; one that does not respond (`idle*`) takes no work."""
    state = word.rstrip("*~#!%$@^-+")
    silent = "*" in word[len(state) :] and state in ("idle", "mixed", "allocated")
    return "not responding" if silent else state


def parse_gpus(gres: str) -> dict[str, int]:
    """The GPUs of `gpu:a100:4(S:0-1),gpu:v100:2,lustre:1`, by type, which may be ''."""
    found: dict[str, int] = {}
    for word in re.sub(r"\([^)]*\)", "", gres).split(","):
        match = re.fullmatch(r"gpu(?::([^:]+?))?(?::(\d+))?", word.strip())
        if match:
            kind, count = match[1] or "", int(match[2] or 1)
            if kind.isdigit() and match[2] is None:
                kind, count = "", int(kind)
            found[kind] = found.get(kind, 0) + count
    return found


def minutes(text: str) -> int | None:
    """`1-00:00:00`, `02:00:00`, `30:00` as minutes; None for UNLIMITED and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if not match:
        return None
    days, hours, mins, seconds = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + mins + (seconds > 0)


def amounts(text: str) -> dict[str, float]:
    """`cpu=4,mem=16G,gres/gpu:a100=1` by name; memory in megabytes."""
    found = {}
    for word in text.split(","):
        name, _, value = word.rpartition("=")
        if name and re.fullmatch(r"[\d.]+[KMGTP]?", value):
            found[name.lower()] = megabytes(value) if name == "mem" else _count(value)
    return found


def _count(text: str) -> float:
    factor = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)
    return float(text.rstrip("KMGTP")) * factor


def _table(text: str) -> list[Row]:
    lines = [line.split("|") for line in text.splitlines() if "|" in line]
    heads = [_EARLIER_HEADS.get(head, head) for head in lines[0]] if lines else []
    return [dict(zip(heads, row, strict=False)) for row in lines[1:]]


def _number(text: str) -> int | None:
    match = re.match(r"\d+", text)
    return int(match[0]) if match else None


def _word(text: str) -> str | None:
    return None if text in ("", "N/A", "(null)", "NONE") else text


def _names(text: str) -> tuple[str, ...]:
    return () if text in ("", "ALL", "(null)", "N/A") else tuple(text.split(","))


def _weights(text: str) -> dict[str, float]:
    """`CPU=0.25,Mem=0.25G,GRES/gpu=1.0` a unit of each; memory a megabyte."""
    found = {}
    for word in text.split(","):
        name, _, value = word.rpartition("=")
        match = re.fullmatch(r"([\d.]+)([KMGT]?)", value)
        if name and match:
            unit = megabytes(f"1{match[2]}") if match[2] else 1
            found[name.lower()] = float(match[1]) / unit
    return found


def _caps(
    row: Row, columns: Mapping[str, Measure], make: Callable[[str, Measure, str, int], Cap]
) -> Iterator[Cap]:
    """The limits that stand in these columns of a row."""
    for column, measure in columns.items():
        text = row.get(column, "")
        if "TRES" in column:
            for resource, value in amounts(text).items():
                yield make(column, measure, resource, int(value))
        elif measure is Measure.WALLTIME:
            if (longest := minutes(text)) is not None:
                yield make(column, measure, "", longest)
        elif (number := _number(text)) is not None:
            yield make(column, measure, "", number)


def _cap(
    holder: str, accounts: tuple[str, ...] = (), qos: str | None = None, *, mine: bool = False
) -> Callable[[str, Measure, str, int], Cap]:
    def make(column: str, measure: Measure, resource: str, value: int) -> Cap:
        return Cap(
            name=column,
            holder=holder,
            measure=measure,
            value=value,
            resource=resource,
            accounts=accounts,
            qos=qos,
            mine=mine,
        )

    return make


def _association(row: Row) -> Association:
    account = row["Account"]
    made = _cap(f"you in account {account}", (account,), mine=True)
    return Association(
        account=account,
        partition=_word(row.get("Partition", "")),
        qos=_names(row.get("QOS", "")),
        default_qos=_word(row.get("Def QOS", "")),
        caps=tuple(_caps(row, {**_GROUP, **_OWN, **_ONE_TASK}, made)),
    )


def _accounts(rows: Sequence[Row]) -> tuple[Account, ...]:
    children: dict[str, list[str]] = {}
    for row in rows:
        children.setdefault(row.get("ParentName", ""), []).append(row["Account"])

    def family(name: str) -> tuple[str, ...]:
        below = (member for child in children.get(name, ()) for member in family(child))
        return (name, *below)

    return tuple(
        Account(
            name=row["Account"],
            parent=_word(row.get("ParentName", "")),
            caps=tuple(_caps(row, _GROUP, _cap(f"account {row['Account']}", _of(row, family)))),
        )
        for row in rows
        if row.get("Account")
    )


def _of(row: Row, family: Callable[[str], tuple[str, ...]]) -> tuple[str, ...]:
    """The accounts whose tasks count for an account: all of them for the topmost."""
    return family(row["Account"]) if row.get("ParentName") else ()


def _qos(row: Row) -> Qos:
    name = row["Name"]
    kinds = (
        (_GROUP | _ONE_TASK, _cap(f"QOS {name}", qos=name)),
        (_PER_USER, _cap(f"you under QOS {name}", qos=name, mine=True)),
        (_PER_ACCOUNT, _cap(f"an account under QOS {name}", qos=name)),
    )
    caps = [cap for columns, made in kinds for cap in _caps(row, columns, made)]
    return Qos(
        name=name,
        flags=_names(row.get("Flags", "")),
        preempts=_names(row.get("Preempt", "")),
        usage_factor=float(row.get("UsageFactor") or 1),
        caps=tuple(caps),
    )
