"""Opens a study, wherever it lives: create it with its whole queue, open it, delete it.

The budget is the length of the queue: `create` queues every trial once, `claim` takes one that
waits and never makes one, so that any number of workers runs exactly the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import optuna
from optuna.storages import BaseStorage

from hpoctl.errors import StudyError
from hpoctl.space import Params
from hpoctl.study.connect import missing_driver, named_error, true_cause
from hpoctl.study.database import Database
from hpoctl.study.location import Kind, Location
from hpoctl.study.native import NativeStore
from hpoctl.study.protocol import Claim, Store
from hpoctl.study.relational import RelationalStore
from hpoctl.study.storages import open_journal, open_tables
from hpoctl.study.tables import forget, migrate
from hpoctl.sweep import Sweep

__all__ = ["OWNER_KEY", "Claim", "Store", "create", "delete", "open_"]

OWNER_KEY = "hpoctl:run_dir"
_SCHEMA = "v3.2.0.a"  # of Optuna's tables, as `relational` knows them


def create(location: Location, sweep: Sweep, points: Iterable[Params], *, owner: str) -> Store:
    """The study with every trial of the budget queued; goes on where an earlier call was killed.

    Raises StudyError if the study is another `owner`'s: its run directory names it.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with _named_errors(location):
        study = optuna.create_study(
            study_name=sweep.study,
            storage=_open_storage(location, new=True),
            directions=[metric.goal for metric in sweep.objectives],
            load_if_exists=True,
        )
        store = open_(location, sweep)
        made_by = study.user_attrs.get(OWNER_KEY, "another program" if store.size() else owner)
        if made_by != owner:
            raise StudyError(
                f"{location}: study '{sweep.study}' is there already, made by {made_by}:"
                " choose another 'study' name"
            )
        study.set_user_attr(OWNER_KEY, owner)
        store.name_metrics()
        store.fill(list(points))
        return store


def delete(location: Location, study: str, *, owner: str) -> None:
    """Deletes the study with all its trials, if it is this owner's."""
    with _named_errors(location):
        storage = _open_storage(location, new=False)
        study_id = storage.get_study_id_from_name(study)
        if storage.get_study_user_attrs(study_id).get(OWNER_KEY) == owner:
            if location.kind is not Kind.JOURNAL:
                forget(Database(location), study_id)
            storage.delete_study(study_id)


def open_(location: Location, sweep: Sweep, *, patient: bool = False) -> Store:
    """The study that `create` made; `patient` waits for a server that does not answer yet.

    Raises StudyError if the study is not there.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if location.kind in (Kind.JOURNAL, Kind.SQLITE) and not location.path.exists():
        raise StudyError(f"{location}: no such file: was the study deleted?")
    with _named_errors(location):
        if location.kind is Kind.JOURNAL:
            storage, journal = open_journal(location, patient=patient)
            return NativeStore(storage, sweep, journal=journal)
        database = Database(location, patient=patient)
        found = _find(database, sweep.study)
        if found is None:
            return NativeStore(open_tables(location, new=False), sweep)
        return RelationalStore(database, found, sweep)


def _find(database: Database, study: str) -> int | None:
    """The study's id; None if the tables are of a schema that only Optuna knows."""
    try:
        versions = database.run(("select version_num from alembic_version", ()))
        if [tuple(row) for row in versions] != [(_SCHEMA,)]:
            return None
        migrate(database)
        question = "select study_id from studies where study_name = ?"
        found = database.run((question, [study]))
    finally:
        database.rest()
    if not found:
        raise KeyError(study)
    return int(found[0][0])


def _open_storage(location: Location, *, new: bool) -> BaseStorage:
    if location.kind is Kind.JOURNAL:
        return open_journal(location)[0]
    return open_tables(location, new=new)


@contextmanager
def _named_errors(location: Location) -> Iterator[None]:
    """Says what is wrong with a storage in one line, with its true cause and no password."""
    try:
        yield
    except KeyError as wrong:
        raise StudyError(f"{location}: the study is not there: was it deleted?") from wrong
    except ModuleNotFoundError as wrong:
        raise missing_driver(location, wrong) from wrong
    except StudyError:
        raise
    except Exception as wrong:
        cause = true_cause(wrong)
        if cause is None:
            raise
        raise named_error(location, cause) from wrong
