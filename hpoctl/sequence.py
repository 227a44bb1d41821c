"""Sequences of points that leave no gaps in a space; the door to scipy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal


def low_discrepancy(
    kind: Literal["sobol", "halton"], *, dimensions: int, count: int, scramble: bool, seed: int
) -> Sequence[Sequence[float]]:
    """The first `count` points of a sequence, each coordinate from 0 to below 1.

    A longer one begins alike. Source: scipy.stats.qmc
    """
    from scipy.stats import qmc  # slow to import

    engine = (qmc.Sobol if kind == "sobol" else qmc.Halton)(dimensions, scramble=scramble, rng=seed)
    # One by one, as scipy warns of a Sobol' sequence whose length is no power of two.
    return [[float(share) for share in engine.random(1)[0]] for _ in range(count)]
