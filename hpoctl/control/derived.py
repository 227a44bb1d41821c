"""Sweeps that hpoctl made of others: submitted as any, once; the same command goes on after a kill.

The text of such a sweep is written before anything else, and stays: a search that goes on meanwhile
has other winners, but the trials that are queued remain those of the text.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hpoctl import config, rundir
from hpoctl.arrays import missing
from hpoctl.control.here import wait
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.submission import Planned, Request, plan, submit
from hpoctl.errors import StudyError
from hpoctl.failures import last_line
from hpoctl.origin import Origin
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import RunDir
from hpoctl.status import Status

Watch = Callable[[Status], None]


def begin(run_dir: RunDir, workdir: Path, write: Callable[[], str]) -> Submitted | None:
    """Submits what `write` gives, or goes on with what an earlier call wrote; None if all is there.

    Nothing is left behind where the batch system or the storage refuses.
    """
    text = run_dir.sweep_file
    if run_dir.plan_file.exists() and not missing(run_dir):
        return None
    run_dir.make()
    with run_dir.locked():
        try:
            if not text.exists():
                partial = text.with_suffix(".partial")
                partial.write_text(write(), encoding="utf-8")
                partial.replace(text)
            return submit(Request(sweep_file=text, run_dir=run_dir.path, workdir=workdir))
        except Exception:
            if not run_dir.plan_file.exists():
                shutil.rmtree(run_dir.path, ignore_errors=True)
            raise


def rehearse(run_dir: RunDir, workdir: Path, text: str) -> Planned:
    """What `begin` would submit; writes nothing that stays."""
    with tempfile.TemporaryDirectory(prefix="hpoctl-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(text, encoding="utf-8")
        return plan(Request(sweep_file=file, run_dir=run_dir.path, workdir=workdir))


def beside(opened: OpenRun, name: str) -> RunDir:
    """The run directory of a study that is made of this run's: `runs/letters-confirm`."""
    path, study = opened.run_dir.path, opened.run.study
    return RunDir(path.with_name(f"{path.name}-{rundir.slug(name.removeprefix(f'{study}-'))}"))


def origin_of(run_dir: RunDir) -> Origin | None:
    """What the run in a folder was made of; None where hpoctl did not make it, or not yet."""
    if not run_dir.sweep_file.exists():
        return None
    overrides = run_dir.run().overrides if run_dir.plan_file.exists() else ()
    return config.load(run_dir.sweep_file, overrides).origin


def keys_of(opened: OpenRun, overrides: Sequence[str]) -> dict[str, object]:
    """The keys of a run's sweep file, with the flags of its submission and further ones."""
    file, flags = opened.run_dir.sweep_file, (*opened.run.overrides, *overrides)
    return config.read(file.read_text(encoding="utf-8"), str(file), flags)


def results(run_dir: RunDir) -> tuple[dict[int, TrialRecord], int]:
    """The last word on each trial of the list by its place, and how many have not ended.

    A failed trial that was repeated counts as its repetition.
    """
    opened = open_run(str(run_dir.path))
    found = {record.root: record for record in opened.store().records()}
    unfinished = (TrialState.WAITING, TrialState.RUNNING)
    return found, sum(record.state in unfinished for record in found.values())


def await_end(run_dir: RunDir, watch: Watch | None) -> None:
    """Waits until no worker is left, if somebody watches."""
    if watch is not None:
        wait(str(run_dir.path), watch)


def why_failed(run_dir: RunDir, record: TrialRecord) -> StudyError:
    """What to tell of a trial that came to nothing, with the way out."""
    study = run_dir.run().study
    said = last_line(str(record.attrs.get("error", ""))) or "it gave no value"
    return StudyError(
        f"trial {record.number} of '{study}' is {record.state}: {said};"
        f" 'hpoctl retry {study} --workers 1' repeats it"
    )
