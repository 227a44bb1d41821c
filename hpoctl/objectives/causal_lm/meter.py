"""What a training took: seconds, rows and tokens, over all attempts of its trial."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a meter shows. Seconds that an attempt lost which was killed are in none of it."""

    trial_s: float = 0.0  # from the fork on
    train_s: float = 0.0  # evaluations and saving included
    evaluate_s: float = 0.0  # of those
    rows: int = 0  # that this rank trained on
    tokens: int = 0  # of those rows, without padding

    def __add__(self, other: Reading) -> Reading:
        return Reading(
            trial_s=self.trial_s + other.trial_s,
            train_s=self.train_s + other.train_s,
            evaluate_s=self.evaluate_s + other.evaluate_s,
            rows=self.rows + other.rows,
            tokens=self.tokens + other.tokens,
        )


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts this attempt, and adds what a checkpoint says of those before it."""

    began: float = field(default_factory=time.monotonic)
    before: Reading = field(default_factory=Reading)
    _since: float | None = None
    _train_s: float = 0.0  # until _since
    _evaluate_s: float = 0.0
    _rows: int = 0
    _tokens: Tensor | int = 0  # a tensor on the GPU: to read it at each step would be to wait

    def start(self) -> None:
        """Training begins; one that begins anew, after it ran out of memory, counts anew."""
        self._since, self._train_s, self._evaluate_s = time.monotonic(), 0.0, 0.0
        self._rows = self._tokens = 0

    def stop(self) -> None:
        """Training has ended; evaluations after it do not count."""
        if self._since is not None:
            self._train_s, self._since = self._train_s + time.monotonic() - self._since, None

    def count(self, inputs: Mapping[str, Tensor]) -> None:
        """Count a batch: its rows, and its tokens but for padding."""
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        self._rows += len(ids)
        self._tokens = self._tokens + (ids.numel() if mask is None else mask.sum())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What happens inside is an evaluation."""
        began = time.monotonic()
        try:
            yield
        finally:
            if self._since is not None:
                self._evaluate_s += time.monotonic() - began

    def read(self) -> Reading:
        """All attempts so far."""
        now = time.monotonic()
        running = 0.0 if self._since is None else now - self._since
        return self.before + Reading(
            trial_s=now - self.began,
            train_s=self._train_s + running,
            evaluate_s=self._evaluate_s,
            rows=self._rows,
            tokens=int(self._tokens),
        )
