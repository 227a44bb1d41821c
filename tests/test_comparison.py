"""Means, intervals and who is ahead."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpoctl.comparison import compare, interval, t_quantile

# Percentage points 0.975 of Student's t, from NIST's table 1.3.6.7.2, and of the normal at the end.
TABLE = {
    1: 12.706,
    2: 4.303,
    3: 3.182,
    4: 2.776,
    5: 2.571,
    9: 2.262,
    10: 2.228,
    29: 2.045,
    100: 1.984,
    1000: 1.962,
}


@pytest.mark.parametrize("freedom", TABLE)
def test_the_quantile_is_that_of_the_table(freedom: int) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(TABLE[freedom], abs=6e-4)


@settings(deadline=None)  # scipy takes seconds to load
@given(st.integers(1, 60), st.floats(0.51, 0.999))
def test_the_quantile_agrees_with_scipy(freedom: int, share: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(share, freedom) == pytest.approx(stats.t.ppf(share, freedom), rel=1e-9)


def test_an_interval_is_the_textbooks() -> None:
    found = interval([5.1, 4.9, 5.6, 5.8, 5.2])  # mean 5.32, s 0.3701
    assert found.n == 5
    assert found.mean == pytest.approx(5.32)
    assert found.high is not None
    assert found.high - found.mean == pytest.approx(2.776445 * 0.3701351 / math.sqrt(5), rel=1e-5)


def test_one_value_has_no_interval() -> None:
    found = interval([3.0])
    assert (found.n, found.mean, found.low, found.high) == (1, 3.0, None, None)


def test_the_order_of_the_search_may_not_hold() -> None:
    compared = compare([(7, 1.0), (3, 1.1)], [{0: 1.5, 1: 1.7}, {0: 1.2, 1: 1.4}], goal="minimize")
    assert [winner.trial for winner in compared.winners] == [3, 7]
    assert compared.order_holds is False


def test_winners_are_compared_seed_by_seed() -> None:
    noise = {0: 0.0, 1: 5.0, 2: -5.0}
    near = {seed: value + 0.1 + 0.001 * seed for seed, value in noise.items()}
    compared = compare([(0, 0.0), (1, 0.1)], [noise, near], goal="minimize")
    behind = compared.winners[1].behind
    assert behind is not None
    assert behind.mean == pytest.approx(0.101)
    assert behind.tells_apart  # although the intervals of the two means overlap widely
    assert compared.order_holds is True


def test_what_is_to_be_maximised_is_behind_where_it_is_less() -> None:
    compared = compare([(0, 0.9), (1, 0.8)], [{0: 0.9}, {0: 0.7}], goal="maximize")
    assert [winner.trial for winner in compared.winners] == [0, 1]
    behind = compared.winners[1].behind
    assert behind is not None
    assert behind.mean == pytest.approx(0.2)


def test_a_winner_without_values_comes_last_and_leaves_the_order_open() -> None:
    compared = compare([(4, 0.1), (5, 0.2)], [{}, {0: 0.3}], goal="minimize")
    assert [winner.trial for winner in compared.winners] == [5, 4]
    assert compared.order_holds is None
    assert compared.winners[1].again is None
