"""Trial records -> what a finished sweep leaves: best configuration, table, plot, trial folders.

The modules beside this one make texts and pictures out of records; only this one touches files.
Every file is replaced whole, so a reader never sees half of one, and writing again is harmless.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl.errors import HpoctlError
from hpoctl.hours import Line
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report import folder, plot, ranking, table
from hpoctl.report.ranking import best
from hpoctl.sweep import Metric

__all__ = ["Report", "best", "write"]

_LINKED = ("log.txt", "checkpoint")
_LOGGED = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where the report was written; `best_config` is None while no trial is COMPLETE.

    `gpu_hours` is None before anything was allocated.
    """

    report_dir: Path
    best_config: Path | None
    trials_summary: Path
    optimization_plot: Path
    gpu_hours: Path | None
    trial_results: Path


def write(
    records: Sequence[TrialRecord],
    metrics: Sequence[Metric],
    *,
    report_dir: Path,
    results_dir: Path,
    trials_dir: Path,
    ledger: Sequence[Line] = (),
) -> Report:
    """Write the report of a study as it stands now, over an earlier one. Raises HpoctlError.

    `ledger` is what the run was allocated. `trials_dir` is where the trials themselves left
    `00007/log.txt`, `checkpoint` and `metrics.jsonl`; `results_dir` gets a folder `trial_7` for
    every trial that has started.
    """
    report = Report(
        report_dir=report_dir,
        best_config=report_dir / "best_config.yaml" if best(records, metrics) else None,
        trials_summary=report_dir / "trials_summary.csv",
        optimization_plot=report_dir / "optimization_plot.png",
        gpu_hours=report_dir / "gpu_hours.csv" if ledger else None,
        trial_results=results_dir,
    )
    try:
        for made in (report_dir, results_dir):
            made.mkdir(parents=True, exist_ok=True)
        _write_best(records, metrics, report_dir / "best_config.yaml")
        _replace(report.trials_summary, _bytes(table.trials_summary(records, metrics)))
        if report.gpu_hours is not None:
            _replace(report.gpu_hours, _bytes(table.gpu_hours(ledger)))
        _write_folders(records, metrics, results_dir, trials_dir)
        _replace(report.optimization_plot, plot.optimization_plot(records, metrics))
    except OSError as wrong:
        what = f"{wrong.filename or report_dir}: {wrong.strerror or wrong}"
        raise HpoctlError(f"{what}; the report is not complete, write it again") from wrong
    return report


def _write_best(records: Sequence[TrialRecord], metrics: Sequence[Metric], path: Path) -> None:
    winner = best(records, metrics)
    if winner is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, _bytes(ranking.best_config(winner, metrics)))


def _write_folders(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], results_dir: Path, trials_dir: Path
) -> None:
    """Bring the folders of all trials that have started up to date."""
    # Lexical `..` would miss where one of the two stands behind a symbolic link.
    way = os.path.relpath(os.path.realpath(trials_dir), os.path.realpath(results_dir))
    for record in records:
        if record.state is not TrialState.WAITING or record.started is not None:
            left = trials_dir / f"{record.root:05d}"
            target = Path("..", way, left.name)
            _write_folder(record, metrics, results_dir / f"trial_{record.number}", left, target)


def _write_folder(
    record: TrialRecord, metrics: Sequence[Metric], path: Path, left: Path, target: Path
) -> None:
    """Bring the folder `path` of one trial up to date with its record and with what it `left`.

    config.yaml is written last and begins with a fingerprint of all that the folder is made from:
    reading that line is enough to leave an up-to-date folder alone, and a folder whose writing was
    broken off does not have it.
    """
    found = _found(left)
    first_line = folder.first_line(record, metrics, found)
    if _begins_with(path / "config.yaml", first_line):
        return
    path.mkdir(exist_ok=True)
    texts = folder.texts(record, metrics, first_line, _logged(left) if _LOGGED in found else "")
    for name in _LINKED:
        _link(path / name, target / name if name in found else None)
    if "error.txt" not in texts:
        (path / "error.txt").unlink(missing_ok=True)
    for name, text in texts.items():
        _replace(path / name, _bytes(text))


def _found(left: Path) -> dict[str, int]:
    """The files of interest in a trial's own folder; the size of the one that is read, else 0."""
    try:
        with os.scandir(left) as entries:
            return {
                entry.name: entry.stat().st_size if entry.name == _LOGGED else 0
                for entry in entries
                if entry.name in (*_LINKED, _LOGGED)
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _logged(left: Path) -> str:
    try:
        return (left / _LOGGED).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # cleaned up since it was found
        return ""


def _begins_with(path: Path, line: str) -> bool:
    try:
        with path.open("rb") as file:
            return file.readline() == line.encode()
    except OSError:
        return False


def _bytes(text: str) -> bytes:
    """UTF-8; a traceback may hold file names that are not, and still has to be written."""
    return text.encode(errors="backslashreplace")


def _replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step: a reader sees the old file or the new one, whole."""
    temporary = _beside(path)
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _link(path: Path, target: Path | None) -> None:
    """Make `path` a link to `target`, or no link; what somebody copied there stays."""
    if path.exists() and not path.is_symlink():
        return
    if target is None:
        path.unlink(missing_ok=True)
        return
    temporary = _beside(path)
    try:
        temporary.symlink_to(target)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(path: Path) -> Path:
    """A hidden name in the same folder that no other report in progress has.

    Not from tempfile: its files are for their owner only, and a report is for the project.
    """
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")
