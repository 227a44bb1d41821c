"""The report as one page of HTML that needs nothing else: no network, no file beside it.

`scale`, `charts` and `relations` make numbers of records; `templates/report/index.html` puts them
on the page, and jinja2 escapes every word of a user's on its way there. The only module that knows
jinja2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from jinja2 import DictLoader, Environment, StrictUndefined

from hpoctl import assets
from hpoctl.failures import FailureGroup, last_line
from hpoctl.hours import GpuHours
from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.page import charts
from hpoctl.report.page.charts import Chart, Parallel
from hpoctl.report.page.relations import relations
from hpoctl.report.page.scale import word
from hpoctl.sweep import Metric

_TEMPLATE = "report/index.html"
_AXES, _SLICES = 8, 12  # parameters that are drawn; the most important ones


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What the page says of a study besides its trials.

    `facts` are lines of its head, by their name; `importance` the parameters' shares, `failures`
    the failures in groups; `shown` names recorded values that the table has besides the metrics.
    """

    study: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)
    failures: tuple[FailureGroup, ...] = ()
    stopped: str | None = None
    shown: tuple[str, ...] = ()
    written_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Winners:
    """The trials to choose from: their configuration, and the front where there is one."""

    best: TrialRecord | None
    config: str
    front: Sequence[TrialRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A line of the table of trials."""

    number: int
    kind: str
    cells: Sequence[str]
    note: str


def render(
    records: Sequence[TrialRecord],
    metrics: Sequence[Metric],
    about: About,
    *,
    winners: Winners,
    hours: GpuHours,
    steps: Mapping[int, Mapping[int, float]],
) -> str:
    """The page; `steps` holds each trial's reports by its number."""
    ordered = sorted(records, key=lambda record: record.number)
    names = _by_importance(ordered, about.importance)
    text = assets.read(f"templates/{_TEMPLATE}")
    jinja = Environment(
        autoescape=True,
        loader=DictLoader({_TEMPLATE: text}),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["word"] = _cell
    return jinja.get_template(_TEMPLATE).render(
        about=about,
        written=datetime.fromtimestamp(about.written_at, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=_counts(ordered),
        hours=hours if hours.allocated else None,
        metrics=metrics,
        winners=winners,
        histories=[charts.history(ordered, metric, i) for i, metric in enumerate(metrics)],
        front=_front(ordered, metrics, winners.front),
        importance=_shares(about.importance),
        parallel=_parallels(ordered, metrics, names[:_AXES]),
        slices=_slices(ordered, metrics, names[:_SLICES]),
        relations=relations(ordered, metrics, names),
        curves=charts.curves(ordered, metrics[0], steps),
        heads=[*(metric.name for metric in metrics), *about.shown, *names, "seconds"],
        rows=_rows(ordered, metrics, [*about.shown], names),
        failures=about.failures,
    )


def _by_importance(records: Iterable[TrialRecord], importance: Mapping[str, float]) -> list[str]:
    names = dict.fromkeys(name for record in records for name in record.params)
    return sorted(names, key=lambda name: -importance.get(name, 0.0))


def _counts(records: Sequence[TrialRecord]) -> dict[str, int]:
    """How many trials ended how, in the order of their states; infeasible ones by themselves."""
    kinds = [charts.kind_of(record) for record in records]
    order = [*(state.value for state in TrialState), "infeasible"]
    return {kind: kinds.count(kind) for kind in order if kind in kinds}


def _shares(importance: Mapping[str, float]) -> list[tuple[str, float]]:
    most = max(importance.values(), default=0.0)
    ranked = sorted(importance.items(), key=lambda pair: -pair[1])
    return [(name, share) for name, share in ranked] if most > 0 else []


def _front(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], front: Sequence[TrialRecord]
) -> list[Chart]:
    """The first metric against each other one, with the front on top."""
    if len(metrics) == 1:
        return []
    numbers = [record.number for record in front]
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    return [
        charts.scatter(
            f"{metric.name} against {metrics[0].name}",
            complete,
            (metrics[0].name, lambda record: charts.value_of(record, 0)),
            (metric.name, _reader(index)),
            size=(760, 320),
            marked=numbers,
        )
        for index, metric in enumerate(metrics)
        if index
    ]


def _reader(index: int) -> charts.Read:
    return lambda record: charts.value_of(record, index)


def _parallels(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], names: Sequence[str]
) -> list[Parallel]:
    drawn = (charts.parallel(records, metric, i, names) for i, metric in enumerate(metrics))
    return [chart for chart in drawn if chart is not None]


def _slices(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], names: Sequence[str]
) -> list[Chart]:
    return [
        chart
        for index, metric in enumerate(metrics)
        for chart in charts.slices(records, metric, index, names)
        if chart.shapes
    ]


def _rows(
    records: Iterable[TrialRecord],
    metrics: Sequence[Metric],
    shown: Sequence[str],
    names: Sequence[str],
) -> list[_Row]:
    return [
        _Row(
            number=record.number,
            kind=charts.kind_of(record),
            cells=[
                *(_cell(charts.value_of(record, index)) for index in range(len(metrics))),
                *(_cell(record.attrs.get(name)) for name in shown),
                *(word(record.params[name]) if name in record.params else "" for name in names),
                "" if record.duration_s is None else f"{record.duration_s:.1f}",
            ],
            note=_note(record),
        )
        for record in records
    ]


def _note(record: TrialRecord) -> str:
    """Which constraints a trial violates, else the last line of its error."""
    above = [f"{name} +{by:.3g}" for name, by in record.constraints.items() if by > 0]
    error = last_line(str(record.attrs.get("error", "")))
    return "; ".join(
        [*(["violates " + ", ".join(above)] if above else []), *([error] if error else [])]
    )


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else word(value)
