"""Optuna's own storages, as hpoctl opens them: a journal in our file, tables without a pool."""

from __future__ import annotations

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from hpoctl.errors import StudyError
from hpoctl.study.connect import engine_options, engine_url
from hpoctl.study.journal import JournalFile
from hpoctl.study.location import Location


class _Journal(JournalFile, BaseJournalBackend):
    """Our file behind Optuna's storage."""


def open_journal(location: Location, *, patient: bool = False) -> tuple[BaseStorage, JournalFile]:
    """The journal, made if it is not there, and its file. Raises StudyError."""
    try:
        location.path.parent.mkdir(parents=True, exist_ok=True)
        location.path.touch()
    except OSError as wrong:
        raise StudyError(f"{location}: {wrong.strerror}") from wrong
    journal = _Journal(location.path, patient=patient)
    storage = JournalStorage(journal)
    # It gives the number of the last trial that it made, before it has read of any.
    storage._replay_result._last_created_trial_id_by_this_process = -1
    return storage, journal


def open_tables(location: Location, *, new: bool) -> BaseStorage:
    """The tables as Optuna opens them; `new` makes them, and checks their schema."""
    from optuna.storages import RDBStorage  # which loads SQLAlchemy

    return RDBStorage(
        engine_url(location),
        engine_kwargs=engine_options(location),
        skip_compatibility_check=not new,
        skip_table_creation=not new,
    )
