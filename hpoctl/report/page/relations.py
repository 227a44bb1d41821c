"""How parameters and metrics go together, as numbers from -1 to 1. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.page.scale import finite, word
from hpoctl.sweep import Metric

_FEWEST = 5  # trials, below which a correlation is a coincidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A parameter and a metric: Spearman's rank correlation, or for words the correlation ratio.

    The ratio has no sign: it is the share of the values' spread that the words explain, as a root.
    """

    parameter: str
    metric: str
    strength: float
    signed: bool


def relations(
    records: Sequence[TrialRecord], metrics: Sequence[Metric], names: Sequence[str]
) -> list[Relation]:
    """All pairs of which enough is known, by parameter."""
    found = []
    for name in names:
        for index, metric in enumerate(metrics):
            pairs = [
                (record.params[name], number)
                for record in records
                if record.state is TrialState.COMPLETE and name in record.params and record.values
                if (number := finite(record.values[index])) is not None
            ]
            numbers = [finite(value) for value, _ in pairs]
            values = [value for _, value in pairs]
            known = [number for number in numbers if number is not None]
            signed = len(known) == len(pairs)
            if len(pairs) < _FEWEST:
                continue
            words = [word(value) for value, _ in pairs]
            strength = spearman(known, values) if signed else correlation_ratio(words, values)
            if strength is not None:
                found.append(
                    Relation(parameter=name, metric=metric.name, strength=strength, signed=signed)
                )
    return found


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """The correlation of ranks, ties at their mean; None where one of both is constant."""
    a, b = _ranks(xs), _ranks(ys)
    mean = (len(a) - 1) / 2
    spread = math.sqrt(sum((x - mean) ** 2 for x in a) * sum((y - mean) ** 2 for y in b))
    if not spread:
        return None
    return sum((x - mean) * (y - mean) for x, y in zip(a, b, strict=True)) / spread


def correlation_ratio(words: Sequence[str], values: Sequence[float]) -> float | None:
    """How much of the ranks' spread lies between the words; None where values are constant."""
    ranks = _ranks(values)
    mean = (len(ranks) - 1) / 2
    whole = sum((rank - mean) ** 2 for rank in ranks)
    groups = defaultdict(list)
    for text, rank in zip(words, ranks, strict=True):
        groups[text].append(rank)
    if not whole or len(groups) < 2:
        return None
    between = sum(len(g) * (math.fsum(g) / len(g) - mean) ** 2 for g in groups.values())
    return math.sqrt(between / whole)


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or values[order[end]] != values[order[begin]]:
            for place in order[begin:end]:
                ranks[place] = (begin + end - 1) / 2
            begin = end
    return ranks
