"""Results of trials on their way to the study: a file each in the run directory, until it is told.

Written before the study is told and removed after, so that a result outlives its worker and an
outage of the database. Whoever comes next delivers what is left; delivering twice changes nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpoctl.rundir import RunDir
from hpoctl.study.database import PATIENCE_S
from hpoctl.study.protocol import Claim, Outcome, Store
from hpoctl.words import Cause, Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a claimed trial ended, at a moment in seconds since 1970.

    `reports` are those that the study could not be told while it ran: values, each with its step.
    `constraints` says by how much each of them is violated.
    """

    number: int
    trial_id: int
    attempt: int
    root: int
    outcome: Outcome
    at: float
    values: Sequence[float] = ()
    attrs: Mapping[str, object] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    cause: Cause = Cause.ERROR
    policy: Policy = Policy.FAIL
    reports: Sequence[tuple[float, int]] = ()

    @property
    def claim(self) -> Claim:
        """The claim that it is the result of; its parameters are in the study."""
        return Claim(
            number=self.number,
            params={},
            trial_id=self.trial_id,
            attempt=self.attempt,
            root=self.root,
        )


def tell(run_dir: RunDir, store: Store, result: Result) -> None:
    """Gives a result to the study, safe from now on. Raises Unreachable if the study has it not."""
    path = None
    try:
        path = _write(run_dir, result)
    except OSError as wrong:  # a full disk; the study may take it all the same
        log.warning("%s: %s", run_dir.spool, wrong.strerror)
    _deliver(store, result)
    if path is not None:
        path.unlink(missing_ok=True)


def deliver(run_dir: RunDir, store: Store) -> list[int]:
    """Gives the study every result that nobody delivered; the numbers of their trials."""
    delivered = []
    for path, result in _left(run_dir):
        _deliver(store, result)
        path.unlink(missing_ok=True)
        log.info("delivered the result of trial %d", result.number)
        delivered.append(result.number)
    return delivered


def _deliver(store: Store, result: Result) -> None:
    for value, step in result.reports:
        store.report(result.claim, value, step, patience_s=PATIENCE_S)
    limits = result.constraints
    match result.outcome:
        case Outcome.COMPLETE:
            store.complete(
                result.claim, result.values, result.attrs, at=result.at, constraints=limits
            )
        case Outcome.PRUNED:
            store.prune(result.claim, at=result.at)
        case Outcome.RETURNED:
            store.give_back(result.claim, at=result.at)
        case _:
            store.fail(
                result.claim,
                result.error,
                at=result.at,
                cause=result.cause,
                policy=result.policy,
                attrs=result.attrs,
                constraints=limits,
            )


def _write(run_dir: RunDir, result: Result) -> Path:
    path = run_dir.spool / f"{result.number:05d}.{result.attempt}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)))
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    return path


def _left(run_dir: RunDir) -> Iterator[tuple[Path, Result]]:
    for path in sorted(run_dir.spool.glob("*.json")):
        with suppress(FileNotFoundError):  # another one delivered it meanwhile
            yield path, _read(json.loads(path.read_text(encoding="utf-8")))


def _read(given: dict[str, Any]) -> Result:
    words = {"outcome": Outcome, "cause": Cause, "policy": Policy}
    parsed = {key: word(given[key]) for key, word in words.items() if key in given}
    return Result(**{**given, **parsed})
