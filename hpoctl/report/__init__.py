"""Trial records -> what a finished sweep leaves: a page, best configuration, table, plots, folders.

The modules beside this one make texts and pictures out of records; only this one touches files.
Every file is replaced whole, so a reader never sees half of one, and writing again is harmless.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl import hours
from hpoctl.errors import HpoctlError
from hpoctl.hours import Line
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report import folder, page, ranking, table
from hpoctl.report.page import About, Winners
from hpoctl.report.plot.optimization import optimization_plot
from hpoctl.report.plot.pareto import pareto_plot
from hpoctl.report.ranking import best, front
from hpoctl.report.table import trials_summary
from hpoctl.sweep import Metric

__all__ = ["About", "Report", "best", "front", "trials_summary", "write"]

_UNNAMED = About()
_READ = 200  # trials whose own notes of their steps are read for the page
_LINKED = ("log.txt", "checkpoint")
_LOGGED = "metrics.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where the report was written; `best_config` is None while no trial is COMPLETE and feasible.

    `gpu_hours` is None before anything was allocated, the front's two files are with one metric.
    """

    report_dir: Path
    index: Path
    best_config: Path | None
    trials_summary: Path
    optimization_plot: Path
    pareto_front: Path | None
    pareto_plot: Path | None
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
    about: About = _UNNAMED,
) -> Report:
    """Write the report of a study as it stands now, over an earlier one. Raises HpoctlError.

    `ledger` is what the run was allocated. `trials_dir` is where the trials themselves left
    `00007/log.txt`, `checkpoint` and `metrics.jsonl`; `results_dir` gets a folder `trial_7` for
    every trial that has started. `about` is what the page says besides.
    """
    several = len(metrics) > 1
    report = Report(
        report_dir=report_dir,
        index=report_dir / "index.html",
        best_config=report_dir / "best_config.yaml" if best(records, metrics) else None,
        trials_summary=report_dir / "trials_summary.csv",
        optimization_plot=report_dir / "optimization_plot.png",
        pareto_front=report_dir / "pareto_front.csv" if several else None,
        pareto_plot=report_dir / "pareto_front.png" if several else None,
        gpu_hours=report_dir / "gpu_hours.csv" if ledger else None,
        trial_results=results_dir,
    )
    try:
        for made in (report_dir, results_dir):
            made.mkdir(parents=True, exist_ok=True)
        _write_best(records, metrics, report_dir / "best_config.yaml")
        _replace(report.trials_summary, _bytes(trials_summary(records, metrics)))
        if report.gpu_hours is not None:
            _replace(report.gpu_hours, _bytes(table.gpu_hours(ledger)))
        _write_folders(records, metrics, results_dir, trials_dir)
        _replace(report.optimization_plot, optimization_plot(records, metrics))
        on_front = front(records, metrics)
        if report.pareto_front is not None and report.pareto_plot is not None:
            _replace(report.pareto_front, _bytes(trials_summary(on_front, metrics)))
            _replace(report.pareto_plot, pareto_plot(records, on_front, metrics))
        winner = best(records, metrics)
        text = page.render(
            records,
            metrics,
            about,
            winners=Winners(
                best=winner,
                config="" if winner is None else ranking.best_config(winner, metrics),
                front=on_front,
            ),
            hours=hours.total(ledger),
            steps=_steps(records, trials_dir),
        )
        _replace(report.index, _bytes(text))
    except OSError as wrong:
        what = f"{wrong.filename or report_dir}: {wrong.strerror or wrong}"
        raise HpoctlError(f"{what}; the report is not complete, write it again") from wrong
    return report


def _steps(records: Sequence[TrialRecord], trials_dir: Path) -> dict[int, Mapping[int, float]]:
    """What each trial reported: as the study knows, else as the trial itself noted it.

    With several metrics the study knows none; of thousands of trials it is enough to read some.
    """
    known = {record.number: record.steps for record in records if record.steps}
    if known:
        return known
    started = [record for record in records if record.started is not None]
    for record in started[:: 1 + len(started) // _READ]:
        text = _logged(trials_dir / f"{record.root:05d}")
        if points := folder.reported(text):
            known[record.number] = points
    return known


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
