"""YAML text -> Sweep. Every complaint names file, line, key and the way out.

The only module that knows YAML (1.2, so that `1e-6` is a number and `no` is a word).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hpoctl.complaints import Complaint, complaint
from hpoctl.errors import ConfigError
from hpoctl.space_file import read_points, read_space, read_starts
from hpoctl.sweep import Sweep


def load(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in the file at `path`, with `a.b=c` overrides. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; 'hpoctl init' writes a starter sweep") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder: name the sweep file in it") from None
    except UnicodeDecodeError as wrong:
        line = wrong.object[: wrong.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: is not UTF-8: save the file as UTF-8") from wrong
    except OSError as wrong:
        raise ConfigError(f"{path}: cannot be read: {wrong.strerror}") from wrong
    return parse(text, str(path), overrides)


def parse(text: str, name: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in `text`; `name` stands for the file in complaints. Raises ConfigError."""
    tree = _read(text, name)
    for override in overrides:
        _override(tree, override)
    try:
        return _validate(_plain(tree))
    except Complaint as wrong:
        raise ConfigError(_locate(wrong, tree, name, overrides)) from wrong


def read(text: str, name: str, overrides: Sequence[str] = ()) -> dict[str, object]:
    """The keys of a sweep's text as plain values, overrides applied, not validated."""
    tree = _read(text, name)
    for override in overrides:
        _override(tree, override)
    plain: dict[str, object] = _plain(tree)
    return plain


def overridden(text: str, name: str, overrides: Sequence[str]) -> str:
    """A sweep's text in which what the overrides say is written out; comments stay."""
    if not overrides:
        return text
    tree = _read(text, name)
    for override in overrides:
        _override(tree, override)
    return _dumped(tree)


def complain(path: Path, overrides: Sequence[str], key: str, message: str) -> ConfigError:
    """What is wrong with a key of a file that is valid by itself, with the key's line."""
    tree = _read(path.read_text(encoding="utf-8"), str(path))
    for override in overrides:
        _override(tree, override)
    wrong = Complaint(tuple(key.split(".")), message)
    return ConfigError(_locate(wrong, tree, str(path), overrides))


def check_space(text: str, name: str) -> None:
    """Raises ConfigError where a file is no search space by itself, with its line."""
    tree = _read(text, name)
    try:
        read_space(_plain(tree))
    except Complaint as wrong:
        inside = Complaint(wrong.place[1:], wrong.message)
        raise ConfigError(_locate(inside, tree, name, ())) from wrong


def dump(tree: Mapping[str, object]) -> str:
    """A nested mapping as YAML 1.2 text, in its own order."""
    return _dumped(dict(tree))


def _dumped(tree: Mapping[str, object]) -> str:
    out = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 10**9  # folding would change runs of spaces in a long text
    yaml.dump(tree, out)
    return out.getvalue()


def _read(text: str, name: str) -> CommentedMap:
    try:
        tree = YAML().load(text)
    except MarkedYAMLError as wrong:
        line = wrong.problem_mark.line + 1 if wrong.problem_mark else 1
        problem = str(wrong.problem).split(" with value")[0]
        if "\\t" in problem:
            problem = "indented by a tab: YAML takes spaces only"
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
    if given.get("sampler", "") is None:
        del given["sampler"]
    if "search_space" in given:
        space = read_space(given["search_space"])
        given = {**given, "search_space": space}
        for key, read in (("sampler", read_points), ("start", read_starts)):
            if key in given:
                given[key] = read(given[key], space)
    try:
        return Sweep.model_validate(given)
    except ValidationError as wrong:
        raise complaint(wrong) from wrong


def _locate(wrong: Complaint, tree: CommentedMap, name: str, overrides: Sequence[str]) -> str:
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
