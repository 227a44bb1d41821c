"""Slurm's way to write moments and resources."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import datetime


def moment(text: str) -> float | None:
    """Seconds since 1970; of a time without zone in this machine's; None if not known."""
    if text.isdigit():  # as SLURM_TIME_FORMAT=%s asks for; an epoch of 0 is no moment
        return float(text) or None
    with suppress(ValueError):
        return datetime.fromisoformat(text).timestamp()
    return None


def gpus(tres: str) -> int | None:
    """GPUs in a list such as `cpu=4,gres/gpu=2,gres/gpu:a100=2`; None where it counts none.

    A site may count GPUs by type only, in all, or not at all (AccountingStorageTRES).
    """
    counts = {kind: int(count) for kind, count in re.findall(r"gres/gpu(:[^=,]+)?=(\d+)", tres)}
    if not counts:
        return None
    return counts[""] if "" in counts else sum(counts.values())
