"""The page's charts as plain numbers: points and lines in pixels, by kind. Pure; draws nothing.

Points of a kind are one path of strokes without length, ten bytes each, so that a page with
thousands of trials stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.page.scale import Scale, Tick, Value, finite, scale
from hpoctl.sweep import Metric

_CURVES, _LINES, _STEPS = 80, 240, 160  # that are drawn at most: more cannot be told apart
_TITLED = 400  # points that show a word under the mouse
_CLASSES = 5  # of lines, from the best to the worst

Read = Callable[[TrialRecord], Value]


@dataclass(frozen=True, slots=True)
class Point:
    """A point with words of its own."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Points or lines that look alike: `kind` is their class in the style sheet."""

    kind: str
    path: str
    points: tuple[Point, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart of `width` times `height` pixels; `x` and `y` are the ticks."""

    name: str
    width: int
    height: int
    x_label: str
    y_label: str
    x: tuple[Tick, ...]
    y: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    left: int = 62
    bottom: int = 36


def kind_of(record: TrialRecord) -> str:
    """How a trial ended, as a class."""
    if not record.feasible:
        return "infeasible"
    return record.state.value


def scatter(
    name: str,
    records: Sequence[TrialRecord],
    x: tuple[str, Read],
    y: tuple[str, Read],
    *,
    size: tuple[int, int],
    marked: Iterable[int] = (),
    more: Sequence[Callable[[Scale, Scale], Shape]] = (),
) -> Chart:
    """Trials by two of their values, those `marked` by number on top; `more` is drawn as well."""
    width, height = size
    read_x, read_y = x[1], y[1]
    shown = [r for r in records if _drawable(read_x(r)) and finite(read_y(r)) is not None]
    across = scale(map(read_x, shown), 62, width - 12)
    up = scale(map(read_y, shown), height - 36, 10)
    of: dict[str, list[Point]] = {}
    stars = set(marked)
    for record in shown:
        at_x, at_y = across.at(read_x(record)), up.at(read_y(record))
        if at_x is not None and at_y is not None:
            kind = "best" if record.number in stars else kind_of(record)
            title = f"trial {record.number}: {read_y(record):.6g}"
            of.setdefault(kind, []).append(Point(at_x, at_y, title))
    order = sorted(of, key=lambda kind: ("pruned", "infeasible", "complete", "best").index(kind))
    return Chart(
        name=name,
        width=width,
        height=height,
        x_label=x[0],
        y_label=y[0],
        x=across.ticks(width // 70),
        y=up.ticks(8),
        shapes=(
            *(draw(across, up) for draw in more),
            *(_dots(kind, of[kind], titled=len(shown) <= _TITLED) for kind in order),
        ),
    )


def history(records: Sequence[TrialRecord], metric: Metric, index: int) -> Chart:
    """Each trial's value by its number, the best so far, and where trials failed."""
    best = _improvements(records, metric, index)
    failed = [r.number for r in records if r.state is TrialState.FAILED]
    last = max((r.number for r in records), default=0)

    def best_so_far(across: Scale, up: Scale) -> Shape:
        steps = [
            (across.at(n), up.at(value)) for n, value in [*best, *((last, v) for _, v in best[-1:])]
        ]
        known = [(x, y) for x, y in steps if x is not None and y is not None]
        path = "".join(f"H{x}V{y}" if i else f"M{x},{y}" for i, (x, y) in enumerate(known))
        return Shape(kind="best-so-far", path=path)

    def failures(across: Scale, up: Scale) -> Shape:
        at = [x for n in failed if (x := across.at(n)) is not None]
        return Shape(kind="failed", path="".join(f"M{x},{up.begin - 7}v7" for x in at))

    return scatter(
        f"{metric.name} of each trial",
        _finished(records),
        ("trial", lambda record: record.number),
        (metric.name, lambda record: value_of(record, index)),
        size=(760, 300),
        marked=[number for number, _ in best[-1:]],
        more=(best_so_far, failures),
    )


def slices(
    records: Sequence[TrialRecord], metric: Metric, index: int, names: Sequence[str]
) -> Iterator[Chart]:
    """The metric against each parameter."""
    for name in names:
        having = [record for record in _finished(records) if name in record.params]
        yield scatter(
            f"{metric.name} by {name}",
            having,
            (name, _parameter(name)),
            (metric.name, lambda record: value_of(record, index)),
            size=(372, 220),
        )


def _parameter(name: str) -> Read:
    return lambda record: record.params.get(name)


def curves(
    records: Sequence[TrialRecord], metric: Metric, steps: Mapping[int, Mapping[int, float]]
) -> Chart | None:
    """What trials reported over their steps; the best ones and some of the others."""
    known = {
        record.number: points
        for record in records
        if (points := _thinned(steps.get(record.number, {})))
    }
    if not known:
        return None
    ranked = [r for r in ranked_by(records, metric, 0) if r.number in known]
    numbers = {record.number for record in ranked}
    rest = [r for r in records if r.number in known and r.number not in numbers]
    chosen = spread(ranked, _CURVES - min(len(rest), _CURVES // 4)) + spread(rest, _CURVES // 4)
    every = [point for record in chosen for point in known[record.number]]
    across = scale((step for step, _ in every), 62, 748)
    up = scale((value for _, value in every), 264, 10)
    shapes = []
    for record in reversed(chosen):
        path = _polyline([(across.at(step), up.at(v)) for step, v in known[record.number]])
        best = bool(ranked) and record is ranked[0]
        kind = "curve best" if best else f"curve {kind_of(record)}"
        title = Point(0, 0, f"trial {record.number}, {kind_of(record)}")
        shapes.append(Shape(kind=kind, path=path, points=(title,)))
    return Chart(
        name=f"{metric.name} over steps",
        width=760,
        height=300,
        x_label="step",
        y_label=metric.name,
        x=across.ticks(10),
        y=up.ticks(8),
        shapes=tuple(shapes),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Parallel:
    """Parallel coordinates: an axis a parameter and one for the metric, a line a trial."""

    width: int
    height: int
    axes: tuple[tuple[float, str, tuple[Tick, ...]], ...]
    shapes: tuple[Shape, ...]


def parallel(
    records: Sequence[TrialRecord], metric: Metric, index: int, names: Sequence[str]
) -> Parallel | None:
    """Lines through all parameters, coloured from the best trials to the worst."""
    ranked = [r for r in ranked_by(records, metric, index) if set(names) <= set(r.params)]
    if len(ranked) < 2 or not names:
        return None
    reads: list[tuple[str, Read]] = [(name, _parameter(name)) for name in names]
    reads.append((metric.name, lambda record: value_of(record, index)))
    scales = [scale([read(r) for r in ranked], 268, 34) for _, read in reads]
    width = max(760, 130 * len(reads))
    gap = (width - 150) / max(1, len(reads) - 1)
    places = [round(60 + i * gap, 1) for i in range(len(reads))]
    place = {record.number: i for i, record in enumerate(ranked)}
    shapes = []
    for record in reversed(spread(ranked, _LINES)):
        rank = place[record.number] * _CLASSES // len(ranked)
        each = zip(places, scales, reads, strict=True)
        path = _polyline([(x, axis.at(read(record))) for x, axis, (_, read) in each])
        shapes.append(Shape(kind="best" if record is ranked[0] else f"rank{rank}", path=path))
    short = _short([name for name, _ in reads])
    drawn = zip(places, reads, scales, strict=True)
    return Parallel(
        width=width,
        height=290,
        axes=tuple((x, short[name], axis.ticks(6)) for x, (name, _), axis in drawn),
        shapes=tuple(shapes),
    )


def _short(names: Sequence[str]) -> dict[str, str]:
    """Names without their groups, where that leaves them distinct."""
    leaves = [name.split(".")[-1] for name in names]
    return dict(zip(names, leaves if len(set(leaves)) == len(names) else names, strict=True))


def ranked_by(records: Iterable[TrialRecord], metric: Metric, index: int) -> list[TrialRecord]:
    """The complete trials that can be compared, the best first, infeasible ones last."""
    sign = 1 if metric.goal == "minimize" else -1
    known = [
        (not record.feasible, sign * value, record.number, record)
        for record in records
        if record.state is TrialState.COMPLETE
        if (value := finite(value_of(record, index))) is not None
    ]
    return [record for *_, record in sorted(known, key=lambda entry: entry[:3])]


def value_of(record: TrialRecord, index: int) -> float | None:
    """A trial's value at a place; None where it has none."""
    values = record.values or ()
    return values[index] if index < len(values) else None


def spread(ranked: Sequence[TrialRecord], most: int) -> list[TrialRecord]:
    """At most so many: the first half of them as they stand, the others evenly from the rest."""
    if len(ranked) <= most:
        return list(ranked)
    first = most // 2
    rest = ranked[first:]
    every = len(rest) / (most - first)
    return [*ranked[:first], *(rest[int(i * every)] for i in range(most - first))]


def _finished(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [record for record in records if record.state in ended and record.values]


def _improvements(
    records: Sequence[TrialRecord], metric: Metric, index: int
) -> list[tuple[int, float]]:
    ranked = ranked_by([record for record in records if record.feasible], metric, index)
    place = {record.number: rank for rank, record in enumerate(ranked)}
    found: list[tuple[int, float]] = []
    lowest = len(ranked)
    for number in sorted(place):
        if place[number] < lowest:
            lowest = place[number]
            found.append((number, value_of(ranked[lowest], index) or 0.0))
    return found


def _drawable(value: Value) -> bool:
    return not isinstance(value, float) or finite(value) is not None


def _thinned(steps: Mapping[int, float]) -> list[tuple[int, float]]:
    known = [(step, value) for step, value in sorted(steps.items()) if finite(value) is not None]
    every = -(-len(known) // _STEPS)
    return known[::-every][::-1] if known else []


def _polyline(points: Sequence[tuple[float | None, float | None]]) -> str:
    known = [f"{x},{y}" for x, y in points if x is not None and y is not None]
    return f"M{known[0]}h0L{' '.join(known[1:])}".removesuffix("L") if known else ""


def _dots(kind: str, points: Sequence[Point], *, titled: bool) -> Shape:
    if titled:
        return Shape(kind=f"dot {kind}", path="", points=tuple(points))
    path = "".join(f"M{point.x},{point.y}h0" for point in points)
    return Shape(kind=f"dots {kind}", path=path)
