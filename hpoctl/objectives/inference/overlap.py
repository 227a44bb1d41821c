"""How a generated text compares with its reference, and with itself. Pure, and loads nothing.

Words are runs of letters and digits, in lower case; no stemming, no stop words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence


def words(text: str) -> list[str]:
    """The words of a text."""
    return re.findall(r"\w+", text.lower())


def exact_match(text: str, reference: str) -> float:
    """1 where both are the same but for white space around them, else 0."""
    return float(text.strip() == reference.strip())


def token_f1(text: str, reference: str) -> float:
    """F1 of the words that both have, in any order (Rajpurkar et al. 2016, SQuAD)."""
    ours, theirs = words(text), words(reference)
    return _f1((Counter(ours) & Counter(theirs)).total(), len(ours), len(theirs))


def rouge_l(text: str, reference: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, ROUGE-L with beta 1)."""
    ours, theirs = words(text), words(reference)
    return _f1(_common(ours, theirs), len(ours), len(theirs))


def _f1(shared: int, ours: int, theirs: int) -> float:
    if not ours and not theirs:
        return 1.0  # nothing was to be said, and nothing was
    return 2 * shared / (ours + theirs)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second):
            same = above[column] + 1 if word == other else 0
            row.append(max(same, row[column], above[column + 1]))
        above = row
    return above[-1]


def distinct(texts: Sequence[Sequence[Hashable]], n: int) -> float:
    """Different n-grams of all texts, a share of all n-grams (Li et al. 2016); 0 without any."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[Sequence[Hashable]], n: int = 4) -> float:
    """Share of n-grams that the same text had before, a mean (Welleck et al. 2020, seq-rep-4).

    Texts of less than n tokens repeat nothing.
    """
    shares = []
    for text in texts:
        grams = _grams(text, n)
        shares.append(1 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares)


def _grams(text: Sequence[Hashable], n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
