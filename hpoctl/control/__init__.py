"""The login node: one function a verb. Plans, writes, submits and returns.

Nothing stays running but a database that was asked for, see `db`. The functions return frozen
values and print nothing. Each is loaded when it is called: a command that only reads a study loads
neither the sweep file's reader nor Optuna.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpoctl.control.attach import add_workers, cancel, drain_workers, trust_nodes
    from hpoctl.control.confirmation import (
        Confirmation,
        ConfirmRequest,
        confirm,
        read_confirmation,
        rehearse_confirm,
    )
    from hpoctl.control.corners import FitRequest, Fitted, fit, rehearse_fit
    from hpoctl.control.doctor import examine
    from hpoctl.control.final import Trained, TrainRequest, rehearse_train, train
    from hpoctl.control.here import check_ended, run
    from hpoctl.control.hub import fetch
    from hpoctl.control.opened import Submitted
    from hpoctl.control.queue import Extended, Retried, extend, retry
    from hpoctl.control.raising import Amount, Raise
    from hpoctl.control.read import (
        Best,
        Failures,
        read_best,
        read_failures,
        read_log,
        read_status,
        read_trials,
        read_trials_csv,
        write_report,
    )
    from hpoctl.control.reasons import Why, read_why
    from hpoctl.control.repair import Repaired, repair
    from hpoctl.control.starter import init
    from hpoctl.control.submission import Planned, Request, compare, plan, submit
    from hpoctl.control.tuning import TuneRequest, submit_tuning, tune

_HOMES = {
    "attach": ("add_workers", "cancel", "drain_workers", "trust_nodes"),
    "confirmation": (
        "Confirmation",
        "ConfirmRequest",
        "confirm",
        "read_confirmation",
        "rehearse_confirm",
    ),
    "corners": ("FitRequest", "Fitted", "fit", "rehearse_fit"),
    "final": ("TrainRequest", "Trained", "rehearse_train", "train"),
    "here": ("check_ended", "run"),
    "opened": ("Submitted",),
    "hub": ("fetch",),
    "queue": ("Extended", "Retried", "extend", "retry"),
    "raising": ("Amount", "Raise"),
    "read": (
        "Best",
        "Failures",
        "read_best",
        "read_failures",
        "read_log",
        "read_status",
        "read_trials",
        "read_trials_csv",
        "write_report",
    ),
    "doctor": ("examine",),
    "reasons": ("Why", "read_why"),
    "repair": ("Repaired", "repair"),
    "starter": ("init",),
    "tuning": ("TuneRequest", "submit_tuning", "tune"),
    "submission": ("Planned", "Request", "compare", "plan", "submit"),
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


__all__ = [
    "Amount",
    "Best",
    "ConfirmRequest",
    "Confirmation",
    "Extended",
    "Failures",
    "FitRequest",
    "Fitted",
    "Planned",
    "Raise",
    "Repaired",
    "Request",
    "Retried",
    "Submitted",
    "TrainRequest",
    "Trained",
    "TuneRequest",
    "Why",
    "add_workers",
    "cancel",
    "check_ended",
    "compare",
    "confirm",
    "drain_workers",
    "examine",
    "extend",
    "fetch",
    "fit",
    "init",
    "plan",
    "read_best",
    "read_confirmation",
    "read_failures",
    "read_log",
    "read_status",
    "read_trials",
    "read_trials_csv",
    "read_why",
    "rehearse_confirm",
    "rehearse_fit",
    "rehearse_train",
    "repair",
    "retry",
    "run",
    "submit",
    "submit_tuning",
    "train",
    "trust_nodes",
    "tune",
    "write_report",
]
