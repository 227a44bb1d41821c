from __future__ import annotations

import math

import pytest
import torch

from hpoctl.objectives.causal_lm.tokens import IGNORED, kl_sums, perplexity, token_sums

LABELS = torch.tensor([[5, 1, 2, 3], [5, IGNORED, 0, IGNORED]])


def some_logits(seed: int, rows: int = 2, length: int = 4, vocabulary: int = 6) -> torch.Tensor:
    return torch.randn(
        rows, length, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_sums_are_those_of_a_loop_by_hand() -> None:
    logits = some_logits(1)
    expected = []
    for row in range(2):
        loss, hits, counted = 0.0, 0, 0
        for position in range(3):
            label = int(LABELS[row, position + 1])
            if label == IGNORED:
                continue
            weights = [math.exp(float(x)) for x in logits[row, position]]
            loss -= math.log(weights[label] / sum(weights))
            hits += max(range(6), key=weights.__getitem__) == label
            counted += 1
        expected.append([loss, hits, counted])
    assert token_sums(logits, LABELS).tolist() == pytest.approx(
        [pytest.approx(row, rel=1e-6) for row in expected]
    )


def test_a_first_label_is_never_predicted() -> None:
    other = LABELS.clone()
    other[:, 0] = 3
    assert torch.equal(token_sums(some_logits(1), LABELS), token_sums(some_logits(1), other))


def test_a_model_agrees_with_itself() -> None:
    logits = some_logits(1)
    assert kl_sums(logits, logits.clone(), LABELS).tolist() == [0.0, 0.0]


def test_kl_goes_from_the_teacher_to_the_model() -> None:
    teacher, model = some_logits(1), some_logits(2)

    def by_hand(p: torch.Tensor, q: torch.Tensor, row: int) -> float:
        total = 0.0
        for position in range(3):
            if int(LABELS[row, position + 1]) == IGNORED:
                continue
            weights = [[math.exp(float(x)) for x in part[row, position]] for part in (p, q)]
            ps, qs = ([w / sum(part) for w in part] for part in weights)
            total += sum(a * math.log(a / b) for a, b in zip(ps, qs, strict=True))
        return total

    assert kl_sums(teacher, model, LABELS).tolist() == pytest.approx(
        [by_hand(teacher, model, row) for row in range(2)], rel=1e-5
    )
    # The other direction is another number, so that the test would notice.
    assert by_hand(teacher, model, 0) != pytest.approx(by_hand(model, teacher, 0), rel=1e-2)


def test_what_the_teacher_rules_out_costs_nothing() -> None:
    teacher, model = some_logits(1), some_logits(2)
    teacher[..., 0] = -math.inf
    assert torch.isfinite(kl_sums(teacher, model, LABELS)).all()


def test_perplexity_is_the_exponential_of_the_loss() -> None:
    assert perplexity(0) == 1
    assert perplexity(math.log(6)) == pytest.approx(6)  # a die
    assert perplexity(1000) == math.inf
