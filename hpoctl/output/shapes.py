"""The results as JSON: shapes that programs rely on, see docs/reference/cli.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpoctl.plan import Plan
from hpoctl.record import TrialRecord
from hpoctl.status import Status, WorkerStatus

if TYPE_CHECKING:
    from hpoctl.control import Repaired, Submitted


def status_shape(status: Status) -> dict[str, object]:
    """`status`."""
    best = status.summary.best
    hours = status.gpu_hours
    return {
        "study": status.run.study,
        "run_dir": str(status.run_dir),
        "mode": status.run.mode,
        "backend": status.run.backend,
        "storage": status.storage,
        "counts": {state.value: count for state, count in status.summary.counts.items()},
        "budget": {"trials": status.run.trials, "gpu_hours": status.gist.gpu_hours},
        "gpu_hours": {
            "allocated": hours.allocated,
            "training": hours.training,
            "startup": hours.startup,
            "idle": hours.idle,
            "charged": hours.charged,
        },
        "infeasible": status.summary.infeasible,
        "best": best
        and {
            "number": best.number,
            "values": best.values,
            "params": dict(best.params),
            "shown": {name: best.attrs.get(name) for name in status.gist.shown},
        },
        "workers": [worker_shape(worker) for worker in status.workers],
        "eta_s": status.eta_s,
        "stopped": status.stopped and {"at": status.stopped.at, "why": status.stopped.why},
        "bad_nodes": dict(status.summary.bad_nodes),
        "unsubmitted": status.unsubmitted,
        "lost": status.lost,
        "undelivered": status.undelivered,
        "batch_system": {"age_s": status.age_s, "silence": status.silence},
    }


def repaired_shape(repaired: Repaired) -> dict[str, object]:
    """What `status --repair` did: the trials' numbers."""
    return {
        "delivered": repaired.delivered,
        "returned": repaired.returned,
        "unheard": repaired.unheard,
    }


def worker_shape(worker: WorkerStatus) -> dict[str, object]:
    """One of `workers list`."""
    return {
        "task": worker.task,
        "slurm_state": worker.state,
        "node": worker.node,
        "trial": worker.trial,
        "trials": worker.trials,
        "reason": worker.reason,
    }


def trial_shape(record: TrialRecord) -> dict[str, object]:
    """One of `trials`."""
    return {
        "number": record.number,
        "state": record.state,
        "values": record.values,
        "params": dict(record.params),
        "feasible": record.feasible,
        "constraints": dict(record.constraints),
        "duration_s": record.duration_s,
        "attrs": dict(record.attrs),
    }


def plan_shape(plan: Plan) -> dict[str, object]:
    """`check`, and one mode of `plan`."""
    cost = plan.cost
    return {
        "mode": plan.mode,
        "trials": plan.trials,
        "arrays": [
            {
                "name": array.name,
                "tasks": array.tasks,
                "at_once": array.at_once,
                "trials_per_task": array.trials_per_task,
                "after": array.after,
            }
            for array in plan.arrays
        ],
        "makespan_s": cost and cost.makespan.total_seconds(),
        "gpu_hours": cost and cost.gpu_hours,
        "startup_share": cost and cost.startup_share,
        "notes": plan.notes,
    }


def submitted_shape(submitted: Submitted) -> dict[str, object]:
    """`submit`, `workers add`, `cancel`."""
    return {
        "study": submitted.study,
        "run_dir": str(submitted.run_dir),
        "waiting": submitted.waiting,
        "notes": submitted.notes,
        "arrays": [
            {"name": s.array, "id": s.id, "tasks": s.tasks, "backend": s.backend}
            for s in submitted.submissions
        ],
    }
