"""What stands in the folder of one trial: its configuration, its metrics over steps, its error.

Pure: a record and the text of its `metrics.jsonl` in, texts by file name out.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from io import StringIO

from hpoctl.config import dump
from hpoctl.record import TrialRecord, TrialState
from hpoctl.space import nest
from hpoctl.sweep import Metric

_LAYOUT = 1  # raise it where a file here changes its shape, so that older folders are rewritten

Row = dict[str, float]


def first_line(record: TrialRecord, metrics: Sequence[Metric], found: Mapping[str, int]) -> str:
    """The comment that config.yaml begins with: it differs wherever the folder would.

    `found` is what the trial itself left, by name, with a size where the content is read. So a
    folder is up to date where its config.yaml begins with this line, whatever the trial's state.
    """
    names = [metric.name for metric in metrics]
    told = repr((_LAYOUT, names, record, sorted(found.items()))).encode(errors="backslashreplace")
    digest = blake2b(told, digest_size=12).hexdigest()
    return f"# trial {record.number}, written by hpoctl from the study: {digest}\n"


def texts(
    record: TrialRecord, metrics: Sequence[Metric], first_line: str, logged: str
) -> dict[str, str]:
    """The files of the trial's folder by name, config.yaml last; `logged` is its metrics.jsonl."""
    files = {"metrics.csv": metrics_csv(record.steps, logged)}
    if record.state is TrialState.FAILED and record.attrs.get("error"):
        files["error.txt"] = str(record.attrs["error"]).rstrip("\n") + "\n"
    files["config.yaml"] = first_line + _config(record, metrics)
    return files


def _config(record: TrialRecord, metrics: Sequence[Metric]) -> str:
    values = zip(metrics, record.values or (), strict=False)
    tree: dict[str, object] = {"number": record.number, "state": record.state.value}
    if isinstance(seed := record.attrs.get("seed"), int):
        tree["seed"] = seed
    tree["values"] = {metric.name: float(value) for metric, value in values}
    tree["params"] = nest(record.params)
    return dump(tree)


def metrics_csv(steps: Mapping[int, float], logged: str) -> str:
    """CSV of the reported steps: step, value, and a column for every further number in `logged`.

    Steps stand in `steps` (what the study knows, and what counts) or in `logged`, or in both.
    """
    rows: dict[int, Row] = _logged(logged)
    for step, value in steps.items():
        rows.setdefault(step, {})["value"] = value
    extra = dict.fromkeys(name for row in rows.values() for name in row if name != "value")
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "value", *extra])
    for step, row in sorted(rows.items()):
        writer.writerow([step, row.get("value", ""), *(row.get(name, "") for name in extra)])
    return out.getvalue()


def reported(logged: str) -> dict[int, float]:
    """The first metric's value at each step, of the text of a metrics.jsonl."""
    return {step: row["value"] for step, row in _logged(logged).items() if "value" in row}


def _logged(text: str) -> dict[int, Row]:
    """The numbers in JSON lines, by step; a line that cannot be read is skipped.

    A worker that was killed leaves a torn line. A step below the one before means that the trial
    was run again from there, so what the earlier run had logged beyond it is dropped.
    """
    rows: dict[int, Row] = {}
    last: int | None = None
    for line in text.split("\n"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = entry.pop("step", None) if isinstance(entry, dict) else None
        if not isinstance(step, int) or isinstance(step, bool):
            continue
        if last is not None and step < last:
            rows = {kept: row for kept, row in rows.items() if kept < step}
        last = step
        rows.setdefault(step, {}).update(_numbers(entry))
    return rows


def _numbers(entry: Mapping[str, object]) -> Row:
    return {
        name: value
        for name, value in entry.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
