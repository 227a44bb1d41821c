"""What a trial of inference returns, by name.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from hpoctl.objectives.causal_lm import footprint
from hpoctl.objectives.causal_lm.trained import Trained
from hpoctl.objectives.inference import overlap
from hpoctl.objectives.inference.generation import cases, decoded, generate, judged
from hpoctl.objectives.inference.settings import Settings

_OVERLAPS = {
    "exact_match": overlap.exact_match,
    "token_f1": overlap.token_f1,
    "rouge_l": overlap.rouge_l,
}


def collect(
    model: Trained,
    rows: Iterable[Mapping[str, Sequence[int]]],
    scorer: Trained | None,
    settings: Settings,
    seed: int,
) -> dict[str, float]:
    """Generates, and measures what came of it; all are means over the prompts or the batches."""
    given = cases(rows, settings)
    made = generate(model, given, settings, seed)
    tokens = made.continuations
    texts = [
        (decoded(model, said), decoded(model, case.reference))
        for said, case in zip(tokens, given, strict=True)
    ]
    total = sum(map(len, tokens))
    found = {
        **{name: statistics.fmean(f(*pair) for pair in texts) for name, f in _OVERLAPS.items()},
        "distinct_1": overlap.distinct(tokens, 1),
        "distinct_2": overlap.distinct(tokens, 2),
        "repetition": overlap.repetition(tokens),
        "new_tokens": total / len(tokens),
        "latency_s": statistics.median(made.seconds),
        "tokens_per_second": total / sum(made.seconds),
        **footprint.peaks(),
    }
    if scorer is not None:
        found["perplexity"] = judged(scorer, model, given, made, settings.batch_size)
    return found
