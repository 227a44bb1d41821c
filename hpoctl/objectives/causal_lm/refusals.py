"""Why a hub gave nothing, in one line with the way out."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

_NO_ROAD = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.ECONNRESET)
_UNREACHED = (
    "the hub cannot be reached from here: is there a network or a proxy (HTTPS_PROXY)? A login node"
    " may fetch it: hpoctl prefetch SWEEP"
)
_WAYS = {  # by the name of the exception, as three libraries raise them; the first that is there
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and it was not fetched: hpoctl prefetch SWEEP",
    "GatedRepoError": (
        "it is gated: ask for access on its page, then give a token: hf auth login, or HF_TOKEN"
    ),
    "RevisionNotFoundError": "there is no such revision of it",
    "RemoteEntryNotFoundError": "there is no such file in it",
    "LocalEntryNotFoundError": _UNREACHED,
    "RepositoryNotFoundError": (
        "there is none of this name that you may read: look at the spelling; for a private one give"
        " a token: hf auth login, or HF_TOKEN"
    ),
}


def way_out(wrong: BaseException) -> str:
    """What was wrong, and what to do about it."""
    chain = list(_chain(wrong))
    if any("is a gated" in str(one) for one in chain):  # datasets says it in words only
        return _WAYS["GatedRepoError"]
    for name, way in _WAYS.items():
        if any(kind.__name__ == name for one in chain for kind in type(one).__mro__):
            return way
    if any(_is_unreached(one) for one in chain):
        return _UNREACHED
    lines = str(wrong).strip().splitlines() or [type(wrong).__name__]
    return lines[0]


def _chain(wrong: BaseException | None) -> Iterator[BaseException]:
    while wrong is not None:
        yield wrong
        wrong = wrong.__cause__ or wrong.__context__


def _is_unreached(wrong: BaseException) -> bool:
    if "couldn't connect to" in str(wrong):  # as transformers says it, offline too
        return True
    if isinstance(wrong, ConnectionError | TimeoutError | socket.gaierror):
        return True
    return isinstance(wrong, OSError) and wrong.errno in _NO_ROAD
