"""The values of the group `inference`: how text is generated, and how much of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hpoctl.objectives.causal_lm.typed import check_number
from hpoctl.objectives.causal_lm.values import check_names, whole

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_BEAMS = ("length_penalty", "early_stopping")
_ALWAYS = ("repetition_penalty", "no_repeat_ngram_size", "min_new_tokens")
KNOWN = (
    *_SAMPLING,
    *("do_sample", "num_beams", "max_new_tokens"),
    *(*_BEAMS, *_ALWAYS),
    *("batch_size", "prompts", "prompt_length"),
)
_FROM_0_ON = ("top_k", "no_repeat_ngram_size", "min_new_tokens")
_RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0, math.inf),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0, math.inf),
    "length_penalty": (-math.inf, math.inf),
}
_NOT_0 = ("typical_p", "repetition_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a trial generates; `fields` are those of transformers.GenerationConfig."""

    fields: Mapping[str, object]
    max_new_tokens: int
    batch_size: int
    prompts: int  # at most; the first ones of the evaluation text
    prompt_length: int  # tokens, of rows that do not say where their prompt ends


def read(fixed: Mapping[str, object], searched: Mapping[str, object]) -> Settings:
    """The group `inference`, defaults filled in; `searched` wins. Raises ValueError.

    A model's own generation_config.json has no say, nor have transformers' defaults (top_k 50):
    what is not given is off. Values that go with sampling or with beams are left out where there is
    neither, so that one space can hold both.
    """
    for group in (fixed, searched):
        check_names(group, KNOWN, "inference.")
    given = {name: _checked(name, value) for name, value in {**fixed, **searched}.items()}
    counts = {"max_new_tokens": 32, "num_beams": 1, "batch_size": 8, "prompts": 64}
    counts["prompt_length"] = 32
    whole_numbers = {
        name: whole(f"inference.{name}", given.get(name, default))
        for name, default in counts.items()
    }
    fields = {name: given[name] for name in _ALWAYS if name in given}
    fields["do_sample"] = _samples(given)
    if fields["do_sample"]:
        fields |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        fields |= {name: given[name] for name in _SAMPLING if name in given}
    if whole_numbers["num_beams"] > 1:
        fields |= {name: given[name] for name in _BEAMS if name in given}
    fields["num_beams"] = whole_numbers.pop("num_beams")
    fields["max_new_tokens"] = whole_numbers["max_new_tokens"]
    return Settings(fields=fields, **whole_numbers)


def _checked(name: str, value: object) -> object:
    """A value that transformers takes: it wants `2.0` where a user may write `2`."""
    where = f"inference.{name}"
    if name in _FROM_0_ON:
        return whole(where, value, 0)
    if name == "early_stopping" and not (isinstance(value, bool) or value == "never"):
        raise ValueError(f"{where}: is {value!r}, but must be true, false or never")
    if name not in _RANGES:
        return value
    number, (low, high) = check_number(where, value), _RANGES[name]
    if not low <= number <= high or (number == 0 and name in _NOT_0):
        least = f"above {low:g}" if name in _NOT_0 else f"from {low:g} on"
        most = f", at most {high:g}" if high < math.inf else ""
        raise ValueError(f"{where}: is {value!r}, but must be {least}{most}")
    return number


def _samples(given: Mapping[str, object]) -> bool:
    """Whether tokens are drawn: as is said, else where a value asks for it; never at 0 degrees."""
    chosen = given.get("do_sample", any(name in given for name in _SAMPLING))
    if not isinstance(chosen, bool):
        raise ValueError(f"inference.do_sample: is {chosen!r}, but must be true or false")
    return chosen and given.get("temperature") != 0
