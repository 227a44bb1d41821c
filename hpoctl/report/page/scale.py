"""Where a value stands on an axis, and which ticks the axis has. Pure; positions are pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Value = str | int | float | bool | None
_DECADES = 100.0  # values that differ by more than this factor stand on a logarithmic axis
_HUGE = 1e150  # beyond this the arithmetic of ticks overflows
_LONG = 14  # characters of a tick


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis: where, and its words."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps numbers from `low` to `high`, or a few words, to pixels from `begin` to `end`."""

    low: float
    high: float
    log: bool
    begin: float
    end: float
    words: tuple[str, ...] = ()

    def at(self, value: Value) -> float | None:
        """The position; None for what cannot be drawn."""
        if self.words:
            return self._place(float(self.words.index(word(value)))) if self.has(value) else None
        number = finite(value)
        if number is None or (self.log and number <= 0):
            return None
        return self._place(math.log10(number) if self.log else number)

    def has(self, value: Value) -> bool:
        return word(value) in self.words

    def _place(self, number: float) -> float:
        share = (number - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)

    def ticks(self, count: int) -> tuple[Tick, ...]:
        """About so many marks at round numbers; a mark for each word."""
        if self.words:
            numbered = enumerate(self.words)
            return tuple(Tick(self._place(float(i)), _cut(text)) for i, text in numbered)
        numbers = _decades(self.low, self.high, count) if self.log else ()
        if len(numbers) >= 2:
            return tuple(Tick(self._place(math.log10(n)), f"{n:g}") for n in numbers)
        rounds = _rounds(self.low, self.high, count)
        return tuple(Tick(self._place(n), f"{10**n if self.log else n:.4g}") for n in rounds)


def scale(values: Iterable[Value], begin: float, end: float) -> Scale:
    """The scale on which all these values can be seen; words where any is no number."""
    given = list(values)
    numbers = [number for value in given if (number := finite(value)) is not None]
    if any(isinstance(value, str | bool) or value is None for value in given):
        words = tuple(dict.fromkeys(word(value) for value in given))
        pad = 0.5 if len(words) > 1 else 1.0
        return Scale(-pad, len(words) - 1 + pad, False, begin, end, words)
    if not numbers:
        return Scale(0.0, 1.0, False, begin, end)
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low > _DECADES
    if log:
        low, high = math.log10(low), math.log10(high)
    pad = 0.04 * (high - low) or 0.1 * abs(low) or 1.0
    return Scale(low - pad, high + pad, log, begin, end)


def finite(value: object) -> float | None:
    """The value as a number that can be drawn."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _HUGE else None


def word(value: object) -> str:
    """A value as the sweep file has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= _LONG else f"{text[: _LONG - 1]}…"


def _rounds(low: float, high: float, count: int) -> Sequence[float]:
    """Multiples of 1, 2 or 5 times a power of ten between two numbers."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [n * step for n in range(first, last + 1)]


def _decades(low: float, high: float, count: int) -> Sequence[float]:
    first, last = math.ceil(low), math.floor(high)
    every = max(1, -(-(last - first + 1) // max(1, count)))
    return [float(f"1e{n}") for n in range(first, last + 1, every)]
