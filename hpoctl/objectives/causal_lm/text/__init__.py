"""The text of a sweep: read, split and tokenised once for all workers, cut for each trial.

It is prepared in the worker before the fork, so nothing here starts threads. It knows no trial,
no model but the name of one, and no sweep file.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.places import Place
from hpoctl.objectives.causal_lm.text import cache, tokenizer, tokens
from hpoctl.objectives.causal_lm.text.chat import with_template
from hpoctl.objectives.causal_lm.text.collate import collate
from hpoctl.objectives.causal_lm.text.cut import cut
from hpoctl.objectives.causal_lm.text.documents import Opened, digest
from hpoctl.objectives.causal_lm.text.source import Cut, Kind, Source, check_searched, read_source
from hpoctl.objectives.causal_lm.text.split import split
from hpoctl.objectives.causal_lm.text.tokenizer import END

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "END",
    "Corpus",
    "Cut",
    "Opened",
    "Source",
    "check_searched",
    "collate",
    "corpus",
    "read_source",
    "tokens_known",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Rows of `input_ids`, and `labels` where not all is learned; no document is in two parts.

    `validation` is what trials are judged by: the part that `evaluate_on` names. `commit` is where
    the text stands on the hub, if it is from there.
    """

    tokenizer: PreTrainedTokenizerFast
    train: Dataset
    validation: Dataset
    test: Dataset | None = None
    commit: str | None = None


# The two pieces of state here, and the reason for preparing at all: what the worker has read
# before the fork, each child finds here instead of reading it again.
@functools.cache
def corpus(source: Source, how: Cut, pretrained: Place | None = None) -> Corpus:
    """The text of `source`, cut; the same values give the same rows.

    The tokenizer is that of the model at `pretrained`, or is trained on the training text. Raises
    ValueError where the text cannot be read, and Infeasible where it is too short for this cut.
    """
    kept, commit = _tokens(source, pretrained)
    parts = kept.parts
    if how.evaluate_on not in parts:
        raise ValueError(
            f"dataset: there is no {how.evaluate_on} part: give {how.evaluate_on}_share, or"
            f" {how.evaluate_on} with a file"
        )
    train = [parts["train"]]
    if how.train_on_all and "validation" in parts:
        train.append(parts["validation"])
    limits = how.max_blocks or (None, None)
    learned = cut("training", train, how, limit=limits[0], share=how.sample_share)
    held_out = {
        name: cut(name, [parts[name]], how, limit=limits[1])
        for name in {how.evaluate_on} | ({"test"} & set(parts))
    }
    return Corpus(
        tokenizer=kept.tokenizer,
        train=learned,
        validation=held_out[how.evaluate_on],
        test=held_out.get("test"),
        commit=commit,
    )


def tokens_known(source: Source, pretrained: Place | None = None) -> int:
    """How many tokens the tokenizer of this text tells apart; for the rest as `corpus`."""
    return len(_tokens(source, pretrained)[0].tokenizer)


@functools.cache
def _tokens(source: Source, pretrained: Place | None) -> tuple[cache.Tokens, str | None]:
    """From disk if they are there; and at which commit of the hub their text is."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before a fork
    opened = Opened(source)
    found: PreTrainedTokenizerFast | None = None
    if pretrained is None:
        identity = f"bpe {source.vocab_size}"
    elif (file := pretrained.file()) is not None:
        identity = digest(file)  # seconds to load: only if it must be
    else:
        found = tokenizer.pretrained(pretrained)
        identity = tokenizer.identity(found)

    def make() -> cache.Tokens:
        parts = split(opened.read(), source)
        own = found
        if pretrained is None:
            own = tokenizer.trained(tokens.texts(parts["train"], source.kind), source.vocab_size)
        elif own is None:
            own = tokenizer.pretrained(pretrained)
        if source.kind is Kind.CHAT:
            own = with_template(own)
        tables = {name: tokens.encode(part, source.kind, own) for name, part in parts.items()}
        return cache.Tokens(tokenizer=own, parts=tables)

    split_by = (source.validation_share, source.test_share, source.seed)
    name = cache.key(opened.content(), source.kind, source.columns, split_by, identity)
    made = make() if source.cache is None else cache.keep(source.cache, name, make)
    return made, opened.commit
