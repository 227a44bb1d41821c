"""The login node: one function a verb. Plans, writes, submits and returns.

Nothing stays running but a database that was asked for, see `db`. The functions return frozen
values and print nothing. Optuna is imported only by the verbs that write to a study or need all
its trials.
"""

from hpoctl.control.attach import add_workers, cancel, drain_workers
from hpoctl.control.here import check_ended, run
from hpoctl.control.opened import Submitted
from hpoctl.control.read import read_best, read_log, read_status, read_trials, write_report
from hpoctl.control.starter import init
from hpoctl.control.submit import Planned, Request, compare, plan, submit

__all__ = [
    "Planned",
    "Request",
    "Submitted",
    "add_workers",
    "cancel",
    "check_ended",
    "compare",
    "drain_workers",
    "init",
    "plan",
    "read_best",
    "read_log",
    "read_status",
    "read_trials",
    "run",
    "submit",
    "write_report",
]
