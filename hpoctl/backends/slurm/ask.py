"""Asks Slurm: one command, its standard output, and an error that says what was asked."""

from __future__ import annotations

import os
import subprocess

from hpoctl.errors import BatchSystemError

_TIMEOUT_S = 60  # slurmctld answers late on a busy cluster, but a login node should not hang


def ask(argv: list[str], *, timeout_s: float = _TIMEOUT_S) -> str:
    """One Slurm command's standard output. Raises BatchSystemError with argv and stderr."""
    shown = " ".join(argv)
    # A surrounding allocation's SLURM_* would silently become options of ours.
    env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_") or k == "SLURM_CONF"}
    try:
        done = subprocess.run(argv, text=True, capture_output=True, timeout=timeout_s, env=env)
    except FileNotFoundError:
        raise BatchSystemError(
            f"{argv[0]} is not on this machine: run this on the login node, or add --backend local"
        ) from None
    except subprocess.TimeoutExpired as late:
        raise BatchSystemError(f"{shown}: no answer within {timeout_s:.0f} s") from late
    if done.returncode:
        complaint = " ".join(done.stderr.split()).removeprefix(f"{argv[0]}: error: ")
        raise BatchSystemError(f"{shown}: {complaint or f'exit code {done.returncode}'}")
    return done.stdout
