"""What is left of grants (GrpTRESMins): resources x minutes that an account or a QOS may use up.

Slurm's own books are asked, once for all grants: https://slurm.schedmd.com/scontrol.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from hpoctl.limits import Cap, Limits, Measure, above

Used = Mapping[str, Mapping[str, int]]  # by holder, then by resource
_LINE = re.compile(
    r"^(?:ClusterName=\S* Account=(?P<account>\S*) UserName=(?P<user>[^\s(]*)|QOS=(?P<qos>[^\s(]+))"
    r".*? GrpTRESMins=(?P<minutes>\S+)",
    re.MULTILINE,
)
_AMOUNT = re.compile(r"([^=,]+)=(?:N|\d+)\((\d+)\)")


def question(limits: Limits) -> list[str] | None:
    """What to ask Slurm; None where no grant is among the limits that hold for this user."""
    rows = [row for row in limits.associations if _has_grant(row.caps)]
    over = [a for row in limits.associations for a in above(limits, row.account)]
    accounts = {row.account for row in rows} | {a.name for a in over if _has_grant(a.caps)}
    qos = {qos.name for qos in limits.qos if _has_grant(qos.caps)}
    asked = {"assoc": ("accounts", accounts), "qos": ("qos", qos)}
    flags = [flag for flag, (_, names) in asked.items() if names]
    if not flags:
        return None
    named = [f"{key}={','.join(sorted(names))}" for key, names in asked.values() if names]
    return ["scontrol", "--oneliner", "show", "assoc_mgr", f"flags={','.join(flags)}", *named]


def _has_grant(caps: tuple[Cap, ...]) -> bool:
    return any(cap.measure is Measure.GRANT for cap in caps)


def settle(limits: Limits, told: str) -> Limits:
    """The limits with what is left of each grant; without those that Slurm told nothing of.

    Where accounting is not to be safe, tasks start as long as anything is left.
    """
    used, safe = _parse(told), "safe" in limits.enforced

    def left(holder: str, caps: tuple[Cap, ...]) -> tuple[Cap, ...]:
        return tuple(kept for cap in caps if (kept := _left(cap, used.get(holder, {}), safe)))

    return replace(
        limits,
        associations=tuple(
            replace(row, caps=left(_of_account(row.account, limits.user), row.caps))
            for row in limits.associations
        ),
        accounts=tuple(
            replace(account, caps=left(_of_account(account.name), account.caps))
            for account in limits.accounts
        ),
        qos=tuple(replace(qos, caps=left(_of_qos(qos.name), qos.caps)) for qos in limits.qos),
    )


def _left(cap: Cap, used: Mapping[str, int], safe: bool) -> Cap | None:
    if cap.measure is not Measure.GRANT:
        return cap
    if cap.resource not in used:
        return None
    left = max(0, cap.value - used[cap.resource])
    return None if left and not safe else replace(cap, value=left, granted=cap.value)


def _of_account(name: str, user: str = "") -> str:
    return f"account {name} {user}"


def _of_qos(name: str) -> str:
    return f"QOS {name}"


def _parse(told: str) -> Used:
    """The lines of `scontrol --oneliner show assoc_mgr`: `GrpTRESMins=cpu=100(10),mem=N(1066)`."""
    found = {}
    for line in _LINE.finditer(told):
        of_qos, account = line["qos"], (line["account"], line["user"])
        holder = _of_qos(of_qos) if of_qos else _of_account(*account)
        found[holder] = {name: int(used) for name, used in _AMOUNT.findall(line["minutes"])}
    return found
