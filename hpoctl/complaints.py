"""What is wrong with a value of a sweep file, and at which key: in our words, without its line."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hpoctl.words import nearest

Place = tuple[str | int, ...]


class Complaint(Exception):
    """A key, as the way to it in the file, and what is wrong there."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def complaint(wrong: ValidationError) -> Complaint:
    """The first error of a validation, in our words."""
    error = wrong.errors()[0]
    place: Place = error["loc"]
    context = error.get("ctx", {})
    if error["type"] == "contradiction":
        place = tuple(context["key"].split("."))
    elif "key" in context:
        place = (*place, context["key"])
    match error["type"]:
        case "missing":
            message = "is missing"
        case "union_tag_invalid":
            known = [word.strip().strip("'") for word in context["expected_tags"].split(",")]
            message = f"'{context['tag']}' is not known; {nearest(context['tag'], known)}"
        case "union_tag_not_found":
            message = "needs a 'name'"
        case "literal_error":
            known = [
                word.strip("' ") for word in context["expected"].replace(" or ", ",").split(",")
            ]
            message = f"{error['input']!r} is not known; {nearest(str(error['input']), known)}"
        case custom if custom in _OWN_ERRORS:
            message = error["msg"]
        case _:
            message = input_error(error)
    return Complaint(place, message)


def input_error(error: ErrorDetails) -> str:
    """What is wrong with a value; one that may hold a password is not repeated."""
    place = [str(key) for key in error["loc"]]
    text = error["msg"].removeprefix("Input ").removeprefix("String ")
    shape = next((_SHAPES[key] for key in place[:1] if key in _SHAPES), "")
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        example = f", such as {shape}" if shape else ""
        text = f"should be a mapping of keys and values{example}"
    elif error["type"] == "tuple_type":
        text = (
            f"should be a list, such as {f'[{shape}]' if len(place) == 1 and shape else '[a, b]'}"
        )
    elif error["type"] == "string_pattern_mismatch":
        key = next((key for key in reversed(place) if key in _EXAMPLES), "")
        text = f"should look like {_EXAMPLES[key]}" if key else "has characters of no use here"
    return text if "storage" in place else f"{text}, not {error['input']!r}"


_EXAMPLES = {
    "mem": "64G",
    "sbatch": "--constraint=a100",
    "partition": "gpu",
    "account": "project-1",
    "qos": "normal",
    "metrics": "eval_loss",
    "constraints": "memory_gb",
}


_SHAPES = {
    "metrics": "{name: eval_loss}",
    "constraints": "{name: memory_gb, max: 8}",
    "budget": "{trials: 60}",
    "resources": "{gpus: 1, time: 2h}",
    "estimate": "{trial: 15m}",
}


_OWN_ERRORS = frozenset(
    (
        "unknown_key",
        "duration",
        "one_line",
        "gpus",
        "storage",
        "password",
        "contradiction",
        "option",
        "mode",
        "policies",
        "limit",
    )
)
