"""The queue inside a database: fills and claims in single transactions on Optuna's own tables.

Optuna's API would take a transaction a trial to fill, read every waiting trial to claim, and on
SQLite give one trial to two workers. The tables are those of Optuna's schema v3.2.0.a; a study
filled and claimed here reads in Optuna like any other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from hpoctl.space import Value
from hpoctl.study.location import Kind, Location

_STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_tables = sa.MetaData()
_studies = sa.Table(
    "studies",
    _tables,
    sa.Column("study_id", sa.Integer, primary_key=True),
    sa.Column("study_name", sa.String(512)),
)
_trials = sa.Table(
    "trials",
    _tables,
    sa.Column("trial_id", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer),
    sa.Column("study_id", sa.Integer),
    sa.Column("state", sa.Enum(*_STATES, name="trialstate")),
    sa.Column("datetime_start", sa.DateTime),
)
_params = sa.Table(
    "trial_params",
    _tables,
    sa.Column("param_id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer),
    sa.Column("param_name", sa.String(512)),
    sa.Column("param_value", sa.Float),
    sa.Column("distribution_json", sa.Text),
)
_attrs = sa.Table(
    "trial_user_attributes",
    _tables,
    sa.Column("trial_user_attribute_id", sa.Integer, primary_key=True),
    sa.Column("trial_id", sa.Integer),
    sa.Column("key", sa.String(512)),
    sa.Column("value_json", sa.Text),
)

Encode = Callable[[str, Value], tuple[float, str]]
"""A parameter's name and value as Optuna stores them: its internal number, its distribution."""

Attrs = Callable[[int], Mapping[str, object]]
"""What to keep with the trial of a number when it is claimed."""


def engine_options(location: Location) -> dict[str, object]:
    """How to connect: no connection is held while an objective runs; SQLite waits for its lock."""
    options: dict[str, object] = {"poolclass": NullPool}
    if location.kind is Kind.SQLITE:
        options["connect_args"] = {"timeout": 60}
    if location.kind is Kind.MYSQL:  # its default locks the gaps between rows: claims deadlock
        options["isolation_level"] = "READ COMMITTED"
    return options


def engine_url(location: Location) -> str:
    """The location as SQLAlchemy wants it."""
    return f"sqlite:///{location.url}" if location.kind is Kind.SQLITE else location.url


class Queue:
    """The waiting trials of one study."""

    def __init__(self, location: Location, study_id: int) -> None:
        self._engine = sa.create_engine(engine_url(location), **engine_options(location))
        self._study_id = study_id

    def append(self, points: Sequence[Mapping[str, Value]], encode: Encode) -> None:
        """Queues all points or none, in their order, numbered on from the last trial."""
        if not points:
            return
        mine = _trials.c.study_id == self._study_id
        with self._engine.begin() as connection:
            # The lock under which Optuna itself numbers trials.
            lock = sa.select(_studies).where(_studies.c.study_id == self._study_id)
            connection.execute(lock.with_for_update())
            count = sa.select(sa.func.count()).select_from(_trials).where(mine)
            first = connection.execute(count).scalar_one()
            rows = [
                {"number": first + i, "study_id": self._study_id, "state": "WAITING"}
                for i in range(len(points))
            ]
            connection.execute(sa.insert(_trials), rows)
            new = sa.select(_trials.c.number, _trials.c.trial_id)
            ids = connection.execute(new.where(mine, _trials.c.number >= first)).all()
            params = [
                _param(trial_id, name, *encode(name, value))
                for number, trial_id in ids
                for name, value in points[number - first].items()
            ]
            if params:
                connection.execute(sa.insert(_params), params)

    def claim(self, attrs: Attrs) -> tuple[int, int] | None:
        """Takes the first waiting trial and marks it; its id and number, or None if none waits."""
        waiting = sa.and_(_trials.c.study_id == self._study_id, _trials.c.state == "WAITING")
        first = (
            sa.select(_trials.c.trial_id, _trials.c.number)
            .where(waiting)
            .order_by(_trials.c.trial_id)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has no row locks; the guard below decides
        )
        while True:
            with self._engine.begin() as connection:
                found = connection.execute(first).one_or_none()
                if found is None:
                    return None
                trial_id, number = found
                taken = (
                    sa.update(_trials)
                    .where(_trials.c.trial_id == trial_id, _trials.c.state == "WAITING")
                    .values(state="RUNNING", datetime_start=_now())
                )
                if connection.execute(taken).rowcount == 1:
                    _mark(connection, trial_id, attrs(number))
                    return int(trial_id), int(number)


def _param(trial_id: int, name: str, internal: float, distribution: str) -> dict[str, object]:
    return {
        "trial_id": trial_id,
        "param_name": name,
        "param_value": internal,
        "distribution_json": distribution,
    }


def _mark(connection: sa.Connection, trial_id: int, attrs: Mapping[str, object]) -> None:
    """Replaces attributes of a trial: a trial that was queued again has those of its last life."""
    old = sa.and_(_attrs.c.trial_id == trial_id, _attrs.c.key.in_(list(attrs)))
    connection.execute(sa.delete(_attrs).where(old))
    rows = [
        {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}
        for key, value in attrs.items()
    ]
    connection.execute(sa.insert(_attrs), rows)


def _now() -> datetime:
    """UTC without its zone, which is how Optuna 5 stores times."""
    return datetime.now(UTC).replace(tzinfo=None)
