"""Text that a trained model generates, timed, and what another model thinks of it.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase, set_seed

from hpoctl.objectives.causal_lm.latency import synchronize
from hpoctl.objectives.causal_lm.tokens import IGNORED, perplexity, token_sums
from hpoctl.objectives.causal_lm.trained import Trained
from hpoctl.objectives.inference.settings import Settings
from hpoctl.trial import Infeasible

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A prompt and what should follow it, in tokens."""

    prompt: Sequence[int]
    reference: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What followed the prompts, in tokens, and how long each batch took."""

    continuations: Sequence[Sequence[int]]
    seconds: Sequence[float]


def cases(rows: Iterable[Mapping[str, Sequence[int]]], settings: Settings) -> list[Case]:
    """The first `settings.prompts` rows as cases. Raises ValueError where there is none.

    A row's prompt is what its labels leave out, and the reference what they ask for; where they
    leave nothing out, the prompt is its first tokens, and as many follow as are generated.
    """
    found = []
    for row in rows:
        ids = [int(token) for token in row["input_ids"]]
        labels = [int(label) for label in row.get("labels", ids)]
        start = next((i for i, label in enumerate(labels) if label != IGNORED), len(ids))
        end = next((i for i in range(start, len(ids)) if labels[i] == IGNORED), len(ids))
        if start == 0:
            start = settings.prompt_length
            end = min(end, start + settings.max_new_tokens)
        if start < end:
            found.append(Case(prompt=ids[:start], reference=ids[start:end]))
        if len(found) == settings.prompts:
            break
    if not found:
        raise ValueError(
            "dataset: no row of the evaluation text has a prompt and something that follows it:"
            f" each needs more than inference.prompt_length ({settings.prompt_length}) tokens"
        )
    return found


def generate(model: Trained, given: Sequence[Case], settings: Settings, seed: int) -> Generated:
    """Let the model go on after each prompt; the same seed gives the same tokens.

    Raises Infeasible where the model cannot read a prompt and as much as is to follow it.
    """
    longest = max(len(case.prompt) for case in given) + settings.max_new_tokens
    if model.longest is not None and longest > model.longest:
        raise Infeasible(
            f"inference.max_new_tokens: {settings.max_new_tokens}, and with its prompt that makes"
            f" {longest} tokens: the model reads {model.longest} at once"
        )
    ends, pad = _marks(model.tokenizer)
    config = GenerationConfig(**settings.fields, eos_token_id=ends or None, pad_token_id=pad)
    model.llm.generation_config = GenerationConfig()  # what it would fill the gaps with
    batches = list(_batches(given, settings.batch_size))
    run = cast("Callable[..., Tensor]", model.llm.generate)
    _once(run, _padded([batches[0][0].prompt], pad, model), config)  # warm-up
    set_seed(seed)
    continuations: list[list[int]] = []
    seconds = []
    for batch in batches:
        inputs = _padded([case.prompt for case in batch], pad, model)
        synchronize()
        began = time.perf_counter()
        made = _once(run, inputs, config)
        synchronize()
        seconds.append(time.perf_counter() - began)
        width = inputs["input_ids"].shape[1]
        continuations += [_until(row, ends, pad) for row in made[:, width:].tolist()]
    return Generated(continuations=continuations, seconds=seconds)


def _once(
    run: Callable[..., Tensor], inputs: Mapping[str, Tensor], config: GenerationConfig
) -> Tensor:
    with torch.inference_mode():
        return run(**inputs, generation_config=config)


def _marks(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    """The tokens that end a text, and the one that fills a batch up."""
    ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
    pad = tokenizer.pad_token_id
    return ends, pad if pad is not None else (ends or [0])[0]


def _padded(prompts: Sequence[Sequence[int]], pad: int, model: Trained) -> dict[str, Tensor]:
    """A batch, filled up on the left: a model goes on after the last token."""
    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    device = model.llm.device
    return {
        "input_ids": torch.tensor(ids, device=device),
        "attention_mask": torch.tensor(mask, device=device),
    }


def _until(row: list[int], ends: Sequence[int], pad: int) -> list[int]:
    """A row's tokens before the first that ends the text."""
    marks = ends or [pad]
    return row[: next((i for i, token in enumerate(row) if token in marks), len(row))]


def judged(
    scorer: Trained, model: Trained, given: Sequence[Case], made: Generated, batch_size: int
) -> float:
    """The perplexity of all continuations after their prompts, to the scorer, by its own tokens."""
    same = scorer.tokenizer.get_vocab() == model.tokenizer.get_vocab()
    pairs = [
        (case.prompt, tokens) if same else _in_words_of(scorer, model, case.prompt, tokens)
        for case, tokens in zip(given, made.continuations, strict=True)
    ]
    loss = counted = 0.0
    for batch in _batches([pair for pair in pairs if pair[1]], batch_size):
        sums = token_sums(*_scored(scorer, batch)).sum(dim=0).tolist()
        loss, counted = loss + sums[0], counted + sums[2]
    return perplexity(loss / counted) if counted else math.inf


def _in_words_of(
    scorer: Trained, model: Trained, prompt: Sequence[int], tokens: Sequence[int]
) -> tuple[list[int], list[int]]:
    """A prompt and what followed it, in the tokens of a scorer with another tokenizer."""
    before, after = (decoded(model, part) for part in (prompt, tokens))
    ids: list[int] = scorer.tokenizer(before)["input_ids"]
    return ids, scorer.tokenizer(after, add_special_tokens=False)["input_ids"]


def _scored(
    scorer: Trained, batch: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """The scorer's logits, and labels that ask for the continuations only."""
    width = max(len(prompt) + len(tokens) for prompt, tokens in batch)
    ids, labels = [], []
    for prompt, tokens in batch:
        fill = width - len(prompt) - len(tokens)  # on the right, where no token looks
        ids.append([*prompt, *tokens, *[0] * fill])
        labels.append([*[IGNORED] * len(prompt), *tokens, *[IGNORED] * fill])
    device = scorer.llm.device
    with torch.inference_mode():
        logits: Tensor = scorer.llm(torch.tensor(ids, device=device), use_cache=False).logits
    return logits, torch.tensor(labels, device=device)


def decoded(model: Trained, tokens: Sequence[int]) -> str:
    """The text that tokens stand for, without marks such as the one that ends it."""
    text = model.tokenizer.decode(list(tokens), skip_special_tokens=True)
    assert isinstance(text, str), "one row gives one text"
    return text


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[i : i + size] for i in range(0, len(items), size))
