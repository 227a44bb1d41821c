from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.objectives.inference.overlap import (
    distinct,
    exact_match,
    repetition,
    rouge_l,
    token_f1,
)

TEXTS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "mat"]), max_size=7).map(" ".join)


def test_only_white_space_around_a_text_is_forgiven() -> None:
    assert exact_match(" Paris\n", "Paris") == 1
    assert exact_match("paris", "Paris") == 0


def test_f1_counts_each_word_as_often_as_both_have_it() -> None:
    # Two of three words, of four: precision 2/3, recall 1/2.
    assert token_f1("the cat cat", "The cat sat on") == pytest.approx(2 / (3 / 2 + 2))


def test_rouge_l_is_that_of_the_paper() -> None:
    # Lin (2004), section 3: "police killed the gunman" against two candidates, beta 1.
    reference = "police killed the gunman"
    assert rouge_l("police kill the gunman", reference) == 0.75
    assert rouge_l("the gunman kill police", reference) == 0.5


def test_nothing_agrees_with_nothing_only() -> None:
    assert token_f1("", "...") == rouge_l("", "") == 1
    assert token_f1("", "word") == rouge_l("word", "") == 0


@given(TEXTS, TEXTS)
def test_order_can_only_lower_an_overlap(text: str, reference: str) -> None:
    assert 0 <= rouge_l(text, reference) <= token_f1(text, reference) + 1e-12 <= 1 + 1e-12
    assert rouge_l(text, reference) == pytest.approx(rouge_l(reference, text))
    assert rouge_l(text, text) == 1


def test_distinct_counts_over_all_texts() -> None:
    assert distinct([[1, 2, 1], [2, 3]], 1) == 3 / 5
    assert distinct([[1, 2, 1], [1, 2]], 2) == 2 / 3  # 12, 21 and 12 again
    assert distinct([[1]], 2) == 0


def test_repetition_is_within_a_text() -> None:
    assert repetition([[1, 2, 3, 4], [1, 2, 3, 4]]) == 0
    assert repetition([[7] * 8]) == 4 / 5  # five 4-grams, all the same
    assert repetition([[7] * 8, [1]]) == 2 / 5
