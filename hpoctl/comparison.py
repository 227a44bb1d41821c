"""Winners of a search, run again with the same seeds each: means, intervals, who is ahead. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

LEVEL = 0.95  # of every interval
_HALVINGS = 64  # of a bisection: what a float can tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A mean of `n` values, with the interval that holds the true one at `LEVEL`.

    With one value there is no interval.
    """

    n: int
    mean: float
    low: float | None = None
    high: float | None = None

    @property
    def tells_apart(self) -> bool:
        """Whether zero is outside: two means whose differences these are differ indeed."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmed:
    """One winner: its value in the search, and those of its repetitions by seed.

    `behind` is how much worse it is than the first one of the confirmation, seed by seed.
    """

    trial: int
    searched: float
    values: Mapping[int, float]
    again: Interval | None
    behind: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The winners by the mean of their repetitions, the best first; those without any come last.

    `order_holds` says whether that is the order of the search; None where not all have a value.
    """

    winners: tuple[Confirmed, ...]
    order_holds: bool | None


def compare(
    searched: Sequence[tuple[int, float]], values: Sequence[Mapping[int, float]], *, goal: str
) -> Comparison:
    """Winners as (trial, value) in the order of the search, and the values of each by seed."""
    sign = 1 if goal == "minimize" else -1
    winners = [
        Confirmed(
            trial=trial,
            searched=value,
            values=by_seed,
            again=interval([*by_seed.values()]) if by_seed else None,
        )
        for (trial, value), by_seed in zip(searched, values, strict=True)
    ]
    order = [winner.trial for winner in winners]
    winners.sort(key=lambda winner: sign * winner.again.mean if winner.again else math.inf)
    first = winners[0]
    return Comparison(
        winners=(first, *(_behind(winner, first, sign) for winner in winners[1:])),
        order_holds=[w.trial for w in winners] == order if all(w.again for w in winners) else None,
    )


def _behind(winner: Confirmed, first: Confirmed, sign: int) -> Confirmed:
    """The winner with its differences to the first one, over the seeds that both have."""
    seeds = [seed for seed in winner.values if seed in first.values]
    if not seeds:
        return winner
    differences = [sign * (winner.values[seed] - first.values[seed]) for seed in seeds]
    return Confirmed(
        trial=winner.trial,
        searched=winner.searched,
        values=winner.values,
        again=winner.again,
        behind=interval(differences),
    )


def interval(values: Sequence[float]) -> Interval:
    """Mean and Student's interval of a sample of at least one value."""
    n, mean = len(values), fmean(values)
    if n < 2:
        return Interval(n=n, mean=mean)
    half = t_quantile((1 + LEVEL) / 2, n - 1) * stdev(values, mean) / math.sqrt(n)
    return Interval(n=n, mean=mean, low=mean - half, high=mean + half)


def t_quantile(share: float, freedom: int) -> float:
    """What Student's t with so many degrees of freedom stays below, with a share above one half."""
    low, high = 0.0, math.pi / 2  # the angle whose tangent is t / sqrt(freedom)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (1 + _central(middle, freedom)) / 2 < share:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _central(angle: float, freedom: int) -> float:
    """How much of Student's t lies between -t and t: exact, for whole degrees of freedom.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))
