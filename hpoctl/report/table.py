"""The trials as a table: one line a trial, in CSV (RFC 4180, UTF-8, lines ending in a newline).

Pure: records in, text out. Missing values are empty; null, true and false are YAML's words, so
that a parameter reads the same here and in the sweep file.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from hpoctl.hours import Line
from hpoctl.record import TrialRecord
from hpoctl.sweep import Metric

_KEPT = frozenset(("task", "node", "gpus", "seed", "error"))  # attrs that are not recorded values
_USE = ("duration_s", "gpu_hours", "node", "task", "started", "ended")
_OWN = "own"

Source = tuple[str, str]  # kind of the column, and the name that it has there


def trials_summary(records: Sequence[TrialRecord], metrics: Sequence[Metric]) -> str:
    """CSV with a header and one line a trial, by number."""
    ordered = sorted(records, key=lambda record: record.number)
    header = columns(ordered, metrics)
    lines = _Lines()
    writer = csv.writer(lines)
    writer.writerow(header)
    for record in ordered:
        cells = _cells(record, metrics)
        writer.writerow([_text(cells.get(source, "")) for source in header.values()])
    return "".join(lines.lines)


def gpu_hours(ledger: Iterable[Line]) -> str:
    """CSV with a header and one line an allocation: what it was given, and what it did with it."""
    lines = _Lines()
    writer = csv.writer(lines)
    parts = ("allocated_s", "startup_s", "training_s", "idle_s")
    writer.writerow(("task", "node", "gpus", "started", *parts, "trials", "known_from", "reason"))
    for line in ledger:
        seconds = (line.allocated_s, line.startup_s, line.training_s, line.idle_s)
        started = _time(datetime.fromtimestamp(line.started_at, UTC))
        what = (line.trials, line.known_from, _given(line.reason))
        row = (line.task, _given(line.node), line.gpus, started)
        writer.writerow([*row, *(f"{part:.1f}" for part in seconds), *what])
    return "".join(lines.lines)


def columns(records: Iterable[TrialRecord], metrics: Sequence[Metric]) -> dict[str, Source]:
    """The table's columns in their order, each name once, with what stands in them.

    hpoctl's own columns come first to their names, then metrics, parameters, recorded values; one
    that finds its name taken is called `metric:`, `param:` or `recorded:` and its name.
    """
    params: dict[str, None] = {}
    recorded: dict[str, None] = {}
    limited: list[str] = []
    for record in records:
        limited = ["feasible"] if limited or record.constraints else []
        params.update(dict.fromkeys(record.params))
        recorded.update(dict.fromkeys(_recorded(record)))
    order: list[Source] = [
        *((_OWN, name) for name in ("number", "state", *limited)),
        *(("metric", metric.name) for metric in metrics),
        *(("param", name) for name in params),
        *((_OWN, name) for name in _USE),
        *(("recorded", name) for name in recorded),
        (_OWN, "error"),
    ]
    named: dict[str, Source] = {}
    taken = {name for kind, name in order if kind == _OWN}
    for kind, name in order:
        free = name
        while kind != _OWN and free in taken:
            free = f"{kind}:{free}"
        taken.add(free)
        named[free] = (kind, name)
    return named


def _cells(record: TrialRecord, metrics: Sequence[Metric]) -> Mapping[Source, object]:
    values = zip(metrics, record.values or (), strict=False)
    own: dict[str, object] = {
        "number": record.number,
        "state": record.state.value,
        "feasible": record.feasible,
        "duration_s": _given(record.duration_s),
        "gpu_hours": _given(_gpu_hours(record)),
        "node": _given(record.attrs.get("node")),
        "task": _given(record.attrs.get("task")),
        "started": _time(record.started),
        "ended": _time(record.ended),
        "error": _last_line(record.attrs.get("error")),
    }
    return {
        **{(_OWN, name): cell for name, cell in own.items()},
        **{("metric", metric.name): value for metric, value in values},
        **{("param", name): value for name, value in record.params.items()},
        **{("recorded", name): value for name, value in _recorded(record).items()},
    }


def _recorded(record: TrialRecord) -> dict[str, int | float]:
    """The further numbers that the objective returned."""
    return {
        name: value
        for name, value in record.attrs.items()
        if name not in _KEPT and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _gpu_hours(record: TrialRecord) -> float | None:
    gpus = record.attrs.get("gpus")
    if record.duration_s is None or not isinstance(gpus, int | float):
        return None
    return record.duration_s * gpus / 3600


def _given(cell: object) -> object:
    return "" if cell is None else cell


def _time(when: datetime | None) -> str:
    """ISO 8601 in UTC; a record's time without a zone is UTC already."""
    if when is None:
        return ""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    text = aware.astimezone(UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def _last_line(error: object) -> str:
    lines = [line.strip() for line in str(_given(error)).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _text(cell: object) -> str:
    if cell is None:
        return "null"
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


class _Lines:
    """Takes rows from a csv writer.

    Python 3.11 quotes a carriage return only where it is part of the line's end, so the writer is
    left its `\\r\\n` and it is made a newline here.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, row: str) -> None:
        self.lines.append(row.removesuffix("\r\n") + "\n")
