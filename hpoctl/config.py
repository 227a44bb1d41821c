"""YAML text -> Sweep. Every complaint names file, line, key and the way out.

The only module that knows YAML (1.2, so that `1e-6` is a number and `no` is a word).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hpoctl.errors import ConfigError
from hpoctl.space import Categorical, Distribution, Float, Int, SearchSpace
from hpoctl.sweep import PARAMETER_NAME, Sweep
from hpoctl.words import nearest

Place = tuple[str | int, ...]

# type in the file -> the distribution, what the type implies, and the keys that it takes
_TYPES: dict[str, tuple[type[Distribution], dict[str, object], tuple[str, ...]]] = {
    "log_uniform": (Float, {"log": True}, ("min", "max")),
    "uniform": (Float, {}, ("min", "max", "step", "log")),
    "float": (Float, {}, ("min", "max", "step", "log")),
    "int": (Int, {}, ("min", "max", "step", "log")),
    "categorical": (Categorical, {}, ("values",)),
}
_FIELDS = {"min": "low", "max": "high", "values": "choices"}  # the course text's word -> ours


class _Complaint(Exception):
    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def load(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in the file at `path`, with `a.b=c` overrides. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'hpoctl init' writes a starter sweep") from None
    except (OSError, UnicodeDecodeError) as wrong:
        raise ConfigError(f"{path}: cannot be read: {wrong}") from wrong
    return parse(text, str(path), overrides)


def parse(text: str, name: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in `text`; `name` stands for the file in complaints. Raises ConfigError."""
    tree = _read(text, name)
    for override in overrides:
        _override(tree, override)
    try:
        return _validate(_plain(tree))
    except _Complaint as wrong:
        raise ConfigError(_locate(wrong, tree, name, overrides)) from wrong


def complain(path: Path, overrides: Sequence[str], key: str, message: str) -> ConfigError:
    """What is wrong with a key of a file that is valid by itself, with the key's line."""
    tree = _read(path.read_text(encoding="utf-8"), str(path))
    for override in overrides:
        _override(tree, override)
    wrong = _Complaint(tuple(key.split(".")), message)
    return ConfigError(_locate(wrong, tree, str(path), overrides))


def check_space(text: str, name: str) -> None:
    """Raises ConfigError where a file is no search space by itself, with its line."""
    tree = _read(text, name)
    try:
        _space(_plain(tree))
    except _Complaint as wrong:
        inside = _Complaint(wrong.place[1:], wrong.message)
        raise ConfigError(_locate(inside, tree, name, ())) from wrong


def dump(tree: Mapping[str, object]) -> str:
    """A nested mapping as YAML 1.2 text, in its own order."""
    out = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 10**9  # folding would change runs of spaces in a long text
    yaml.dump(dict(tree), out)
    return out.getvalue()


def _read(text: str, name: str) -> CommentedMap:
    try:
        tree = YAML().load(text)
    except MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else 1
        problem = str(wrong.problem).split(" with value")[0]
        raise ConfigError(f"{name}:{line}: {problem}") from wrong
    except YAMLError as wrong:
        raise ConfigError(f"{name}: not YAML: {wrong}") from wrong
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{name}:1: a sweep is a mapping of keys: 'study: my-sweep' and so on")
    return tree


def _override(tree: CommentedMap, override: str) -> None:
    path, separator, text = override.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise ConfigError(f"--set {override}: write it as key.key=value")
    branch: Any = tree
    try:
        for key in keys[:-1]:
            branch = branch[int(key)] if isinstance(branch, list) else branch.setdefault(key, {})
        branch[int(keys[-1]) if isinstance(branch, list) else keys[-1]] = YAML().load(text)
    except (YAMLError, ValueError, IndexError, TypeError, AttributeError) as wrong:
        raise ConfigError(f"--set {path}: there is no such place, or no such value") from wrong


def _plain(node: Any) -> Any:
    """The tree as plain dict, list, str, int, float, bool and None."""
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    for kind in (bool, int, float):
        if isinstance(node, kind):
            return kind(node)
    return node if node is None else str(node)


def _validate(given: dict[str, Any]) -> Sweep:
    if "search_space" in given:
        space = _space(given["search_space"])
        given = {**given, "search_space": space, "sampler": _points(given.get("sampler"), space)}
        if given["sampler"] is None:
            del given["sampler"]
    try:
        return Sweep.model_validate(given)
    except ValidationError as wrong:
        raise _complaint(wrong) from wrong


def _complaint(wrong: ValidationError) -> _Complaint:
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
            message = _input_error(error)
    return _Complaint(place, message)


def _input_error(error: ErrorDetails) -> str:
    """What is wrong with a value; one that may hold a password is not repeated."""
    place = [str(key) for key in error["loc"]]
    text = error["msg"].removeprefix("Input ").removeprefix("String ")
    if error["type"] in ("dict_type", "model_type", "model_attributes_type"):
        text = "should be a mapping of keys and values"
    elif error["type"] == "tuple_type":
        text = "should be a list, such as [a, b]"
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
}


def _wrong_value(field: str, wrong: ValidationError) -> str:
    if field == "choices" and wrong.errors()[0]["loc"]:
        return "each value should be a number, a text, true, false or null"
    return _input_error(wrong.errors()[0])


def _nearest_key(key: str, keys: Sequence[str]) -> str:
    """A hint among the keys of a type and their other names."""
    return nearest(key, [*keys, *(_FIELDS[known] for known in keys if known in _FIELDS)])


_OWN_ERRORS = frozenset(
    (
        "unknown_key",
        "duration",
        "one_line",
        "gpus",
        "storage",
        "password",
        "contradiction",
        "mode",
        "policies",
    )
)


def _space(tree: object) -> SearchSpace:
    root: Place = ("search_space",)
    parameters = dict(_walk(tree, root))
    if not parameters:
        raise _Complaint(root, "is empty: name at least one parameter")
    return SearchSpace(parameters)


def _walk(tree: object, place: Place) -> Iterator[tuple[str, Distribution]]:
    if not isinstance(tree, Mapping):
        raise _Complaint(
            place,
            "neither a group nor a parameter with a 'type'; fixed values go to objective_args",
        )
    if isinstance(tree.get("type"), str):
        yield ".".join(str(key) for key in place[1:]), _distribution(tree, place)
        return
    for key, branch in tree.items():
        if not PARAMETER_NAME.fullmatch(key):
            raise _Complaint((*place, key), "a name is letters, digits, _ and -, a letter first")
        yield from _walk(branch, (*place, key))


def _distribution(tree: Mapping[str, object], place: Place) -> Distribution:
    if len(place) < 2:
        raise _Complaint((*place, "type"), "a parameter needs a name: write it one level deeper")
    word = str(tree["type"])
    if word not in _TYPES:
        raise _Complaint((*place, "type"), f"unknown type '{word}'; {nearest(word, list(_TYPES))}")
    kind, implied, keys = _TYPES[word]
    types = get_type_hints(kind)
    fields: dict[str, Any] = dict(implied)
    for key, value in tree.items():
        if key == "type":
            continue
        if key == "when":
            raise _Complaint((*place, key), "conditions (when:) are not built yet: leave it out")
        field = _FIELDS.get(key, key)
        if field not in [_FIELDS.get(known, known) for known in keys]:
            raise _Complaint((*place, key), f"unknown key; {_nearest_key(key, keys)}")
        if field in fields:
            raise _Complaint((*place, key), "is given twice, under two names: keep one")
        given = tuple(value) if isinstance(value, list) else value
        try:
            fields[field] = TypeAdapter(types[field]).validate_python(given, strict=True)
        except ValidationError as wrong:
            raise _Complaint((*place, key), _wrong_value(field, wrong)) from wrong
    for key in ("values",) if kind is Categorical else ("min", "max"):
        if _FIELDS[key] not in fields:
            raise _Complaint(place, f"'{key}' is missing")
    try:
        return kind(**fields)
    except ValueError as wrong:
        raise _Complaint(place, str(wrong)) from wrong


def _points(sampler: Any, space: SearchSpace) -> Any:
    """A sampler as given, with the points of a manual list checked and made flat."""
    if not isinstance(sampler, Mapping) or not isinstance(sampler.get("points"), list):
        return sampler
    points = [
        _point(point, space, ("sampler", "points", i)) for i, point in enumerate(sampler["points"])
    ]
    return {**sampler, "points": points}


def _point(tree: object, space: SearchSpace, place: Place) -> dict[str, object]:
    flat = dict(_leaves(tree, ""))
    for name, value in flat.items():
        if name not in space.parameters:
            hint = nearest(name, list(space.parameters))
            raise _Complaint(place, f"'{name}' is not in the search space; {hint}")
        if value not in space.parameters[name]:
            allowed = space.parameters[name]
            raise _Complaint(place, f"'{name}' is {value!r}, outside its range: {allowed}")
    for name in space.parameters:
        if name not in flat:
            raise _Complaint(place, f"'{name}' is missing: a point names every parameter")
    return flat


def _leaves(tree: object, prefix: str) -> Iterator[tuple[str, object]]:
    if not isinstance(tree, Mapping):
        yield prefix.removesuffix("."), tree
        return
    for key, branch in tree.items():
        yield from _leaves(branch, f"{prefix}{key}.")


def _locate(wrong: _Complaint, tree: CommentedMap, name: str, overrides: Sequence[str]) -> str:
    """`file:line: key.key: message`; the flag stands for the file where it set the key."""
    line, node, keys = 1, tree, list[str]()
    for key in wrong.place:
        if isinstance(node, CommentedMap) and key in node:
            if key in (node.lc.data or ()):  # None for an empty mapping
                line = node.lc.key(key)[0] + 1
            node = node[key]
        elif isinstance(node, CommentedSeq) and isinstance(key, int) and key < len(node):
            line = node.lc.item(key)[0] + 1
            node = node[key]
        elif key != wrong.place[-1]:
            continue  # a tag that pydantic adds for the member of a union
        keys.append(str(key))
    where = ".".join(keys)
    for override in overrides:
        path = override.partition("=")[0]
        if f"{where}.".startswith(f"{path}."):
            return f"{where} (on the command line): {wrong.message}"
        if path.startswith(f"{where}."):
            return f"{name}:{line}: {where} (with {path} of the command line): {wrong.message}"
    return f"{name}:{line}: {where}{': ' if where else ''}{wrong.message}"
