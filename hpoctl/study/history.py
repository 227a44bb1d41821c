"""Every trial of a study in a database, with what its attempts left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from hpoctl.record import TrialRecord
from hpoctl.study import translate
from hpoctl.study.database import Database
from hpoctl.study.mirror import frozen
from hpoctl.study.protocol import Outcome
from hpoctl.study.rows import Questions


def read_records(database: Database, sql: Questions) -> list[TrialRecord]:
    """Every trial, by number."""
    rows = database.run(sql.everything())
    attrs: dict[int, dict[str, Any]] = {}
    for row in database.run(sql.attempts()):
        attrs[row[0]] = _attempted(attrs.get(row[0], {}), *row[1:])
    for trial_id, key, text in database.run(sql.user_attrs()):
        attrs.setdefault(trial_id, {})[key] = json.loads(text)
    times = {row[0]: row[1:] for row in database.run(sql.times())}
    found = []
    for trial in sorted(frozen(rows), key=lambda trial: trial.number):
        trial.user_attrs = attrs.get(trial._trial_id, {})
        if trial.user_attrs.get("retry_of") == trial.number:
            del trial.user_attrs["retry_of"]
        with suppress(KeyError):  # queued between the questions
            start, end = times[trial._trial_id]
            trial.datetime_start, trial.datetime_complete = _utc(start), _utc(end)
        found.append(translate.record(trial))
    return found


def _attempted(
    before: Mapping[str, Any],
    attempt: int,
    root: int,
    task: str,
    node: str,
    gpus: int,
    outcome: str | None,
    seed: int | None,
    late: str | None,
    cause: str | None,
) -> dict[str, Any]:
    """What an attempt adds to what is known of its trial from those before."""
    known = {
        **before,
        "attempt": attempt,
        "retry_of": root,
        "task": task,
        "node": node,
        "gpus": gpus,
    }
    if seed is not None:
        known["seed"] = seed
    if outcome == Outcome.LOST:
        known["lost"] = before.get("lost", 0) + 1
    known.pop("cause", None)
    if cause is not None:
        known["cause"] = cause
    if late is not None:
        known["late_values"] = json.loads(late)
    return known


def _utc(stored: Any) -> datetime | None:
    """A time as read by a driver; SQLite's is text."""
    if isinstance(stored, str):
        stored = datetime.fromisoformat(stored)
    return None if stored is None else stored.replace(tzinfo=UTC)
