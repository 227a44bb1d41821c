"""What a worker concludes from failures: that its node is broken, or that no trial can succeed.

Both are kept in the study, so that all its workers know.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hpoctl.backends import slurm
from hpoctl.errors import BatchSystemError, Unreachable
from hpoctl.failures import LOOK_BACK, OF_THE_CLUSTER, why_avoid, why_stop
from hpoctl.record import AttemptRecord, Outcome, Stop, WorkerRecord
from hpoctl.rundir import RunDir
from hpoctl.spool import Result
from hpoctl.study.protocol import Past
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Cause, Policy

log = logging.getLogger(__name__)
_LOOK_S = 10.0  # between two looks at what other workers have concluded


@dataclass(slots=True, kw_only=True)
class Conclusions:
    """One worker's, about its study and its node."""

    past: Past
    run_dir: RunDir
    backend: BackendName
    sweep: Sweep
    worker: WorkerRecord
    _reason: str | None = field(default=None, init=False)
    _looked_at: float = field(default=-math.inf, init=False)

    def reason(self) -> str | None:
        """Why this worker leaves: by its own conclusion, or by that of another one on its node."""
        if self._reason is None and time.monotonic() > self._looked_at + _LOOK_S:
            self._looked_at = time.monotonic()
            why = self.past.bad_nodes().get(self.worker.node)
            self._reason = None if why is None else self._of_node(why)
        return self._reason

    def why_drained(self, drained_at: float) -> str:
        """Why workers were asked to leave at this moment."""
        stop = self.past.stopped()
        if stop is not None and stop.at == drained_at:
            return f"the study stopped itself: {stop.why}"
        return "told to by 'hpoctl workers drain'"

    def judge(self, result: Result) -> Result:
        """A failure with what becomes of its trial: a broken node's victim waits again."""
        if result.cause in OF_THE_CLUSTER:
            return result
        try:
            ended = self.past.ended(last=max(LOOK_BACK, self.sweep.stop_after))
            ended.append(self._attempt(result))
            self._stop_if_hopeless(ended)
            broken = result.cause is not Cause.INFEASIBLE and self._is_broken(ended)
        except Unreachable as wrong:
            log.warning("nothing is concluded from a failure: %s", wrong)
            return result
        return replace(result, policy=Policy.REQUEUE) if broken else result

    def _stop_if_hopeless(self, ended: Sequence[AttemptRecord]) -> None:
        before = self.past.stopped()
        why = why_stop(ended, self.sweep.stop_after, since=before.at if before else 0.0)
        if why is not None:
            self.past.stop(Stop(at=time.time(), why=why))
            self._reason = f"the study stopped itself: {why}"

    def _is_broken(self, ended: Sequence[AttemptRecord]) -> bool:
        node, known = self.worker.node, self.past.bad_nodes()
        why = known.get(node) or why_avoid(node, ended, known)
        if why is None:
            return False
        self._reason = self._of_node(why)
        if node not in known:
            self.past.avoid(node, why)
            self._keep_from([*known, node])
        return True

    def _of_node(self, why: str) -> str:
        return f"node {self.worker.node} is avoided: {why}"

    def _keep_from(self, nodes: Sequence[str]) -> None:
        """Keeps tasks that wait from nodes; where that fails, they leave as soon as they start."""
        if self.backend is not BackendName.SLURM:
            return
        try:
            ids = [submission.id for submission in self.run_dir.submissions()]
            slurm.exclude(ids, nodes, self.sweep, self.run_dir)
        except BatchSystemError as wrong:
            log.warning("%s may still be given to tasks that wait: %s", ", ".join(nodes), wrong)

    def _attempt(self, result: Result) -> AttemptRecord:
        """A failure as the study will have it."""
        return AttemptRecord(
            number=result.number,
            attempt=result.attempt,
            task=self.worker.task,
            node=self.worker.node,
            started_at=result.at,
            ended_at=result.at,
            outcome=Outcome.FAILED,
            cause=result.cause,
            error=result.error,
        )
