"""What becomes of a trial whose attempt came to nothing: the key `on` of a sweep file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

from hpoctl.words import Cause, Policy, nearest

POLICIES: Mapping[Cause, Policy] = {
    Cause.CUDA_OOM: Policy.INFEASIBLE,
    Cause.HOST_OOM: Policy.FAIL,
    Cause.TIMEOUT: Policy.RETRY,
    Cause.PREEMPTED: Policy.REQUEUE,
    Cause.REQUEUED: Policy.REQUEUE,
    Cause.CANCELLED: Policy.REQUEUE,
    Cause.NODE_FAIL: Policy.RETRY,
    Cause.LOST: Policy.RETRY,
    Cause.NAN: Policy.FAIL,
    Cause.INFEASIBLE: Policy.INFEASIBLE,
    Cause.IMPORT: Policy.FAIL,
    Cause.ERROR: Policy.FAIL,
}
"""What becomes of a trial, where the sweep does not say otherwise."""


def _parse(value: object) -> Mapping[Cause, Policy]:
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "policies", "should be a mapping, such as {cuda_oom: infeasible}", {}
        )
    for cause, policy in value.items():
        for word, known in ((cause, [*Cause]), (policy, [*Policy])):
            if word not in known:
                hint = nearest(str(word), [member.value for member in known])
                raise PydanticCustomError(
                    "policies",
                    "{given} is not known; {hint}",
                    {"key": str(cause), "given": repr(word), "hint": hint},
                )
    return {Cause(str(cause)): Policy(str(policy)) for cause, policy in value.items()}


Policies = Annotated[Mapping[Cause, Policy], BeforeValidator(_parse)]
