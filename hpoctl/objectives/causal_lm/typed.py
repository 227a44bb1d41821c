"""Values for the fields of another library's dataclass, checked by the types that it declares."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib.util
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field: the types of which its value may be one, its default, and the words it takes."""

    kinds: tuple[object, ...]
    default: object
    words: tuple[str, ...]

    def checked(self, name: str, value: object) -> object:
        """The value, if the field can hold it; a whole number may be written as 8.0.

        Names and values become the dataclass that the field holds. Raises ValueError.
        """
        if value is None:
            if self.default is not None:
                raise ValueError(f"{name}: is empty: give a value, or leave it out")
            return value
        if self.words and isinstance(value, str):
            check_word(name, value, self.words)
        if isinstance(value, float) and value.is_integer() and self._takes(int):
            value = value if self._takes(float) else int(value)
        made = next((kind for kind in self.kinds if dataclasses.is_dataclass(kind)), None)
        if isinstance(value, Mapping) and isinstance(made, type):
            try:
                return made(**value)
            except (TypeError, ValueError) as wrong:
                raise ValueError(f"{name}: {wrong}") from wrong
        if not any(_fits(value, kind) for kind in self.kinds):
            kinds = (kind for kind in self.kinds if kind is not type(None))
            must = " or ".join(sorted({_called(kind) for kind in kinds}))
            raise ValueError(f"{name}: is {value!r}, but must be {must}{_bare(value)}")
        return value

    def _takes(self, kind: type) -> bool:
        return kind in self.kinds


def check_word(name: str, value: str, words: Sequence[str]) -> None:
    """Raises ValueError for a word that is none of these, with the nearest."""
    # As peft's pissa_niter_[number of iters]: a word that ends as one likes.
    open_ended = (word.partition("[")[0] for word in words if "[" in word)
    if value in words or value.startswith(tuple(open_ended)):
        return
    close = difflib.get_close_matches(value, words, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(words)}"
    raise ValueError(f"{name}: {value!r} is not known; {hint}")


def check_number(name: str, value: object) -> float:
    """A number. Raises ValueError for what is none; one in quotes is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: is {value!r}, but must be a number{_bare(value)}")
    return float(value)


def _bare(value: object) -> str:
    """A hint for a number in quotes."""
    try:
        float(str(value))
    except ValueError:
        return ""
    return f": write {value}, without quotes" if isinstance(value, str) else ""


def fields_of(holder: type, beyond: type | None = None) -> Mapping[str, Field]:
    """The fields of a dataclass by name, but those that it has from `beyond`."""
    hints = typing.get_type_hints(holder)
    assert dataclasses.is_dataclass(holder)
    left = set() if beyond is None else set(typing.get_type_hints(beyond))
    return {
        field.name: _read(field, hints[field.name])
        for field in dataclasses.fields(holder)
        if field.init and field.name not in left
    }


def _read(field: dataclasses.Field[object], hint: object) -> Field:
    kinds: tuple[object, ...] = (hint,)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = typing.get_args(hint)
    words = next((_words(kind) for kind in kinds if _words(kind)), ())
    choices = tuple(field.metadata.get("choices") or ())
    return Field(kinds=kinds, default=field.default, words=words or choices)


def names_in(package: str, file: str, holder: str) -> list[str] | None:
    """The fields that a class of an installed package declares, found without loading it.

    None where it is not installed here.
    """
    body = _class(package, file, holder)
    fields = (node.target for node in body or () if isinstance(node, ast.AnnAssign))
    named = [field.id for field in fields if isinstance(field, ast.Name)]
    return None if body is None else named


def words_in(package: str, file: str, holder: str) -> list[str]:
    """The words of an enumeration, found in the same way; none where it is not installed here."""
    return [
        str(node.value.value)
        for node in _class(package, file, holder) or ()
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]


def _class(package: str, file: str, holder: str) -> list[ast.stmt] | None:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return None
    source = Path(found.submodule_search_locations[0], file).read_text("utf-8")
    classes = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    return next((node.body for node in classes if node.name == holder), None)


def naming_a_field(group: str, names: Iterable[str], message: str) -> str:
    """What the library refuses, beginning with the field that it speaks of."""
    if message.startswith(f"{group}."):
        return message
    spoken = [name for name in names if re.search(rf"\b{name}\b", message)]
    return f"{group}.{max(spoken, key=len)}: {message}" if spoken else f"{group}: {message}"


def _words(kind: object) -> tuple[str, ...]:
    if typing.get_origin(kind) is typing.Literal:
        return tuple(word for word in typing.get_args(kind) if isinstance(word, str))
    if isinstance(kind, type) and issubclass(kind, Enum):
        return tuple(str(member.value) for member in kind)
    return ()


def _fits(value: object, kind: object) -> bool:
    if _words(kind):  # which one was looked at before
        return isinstance(value, str)
    if typing.get_origin(kind) is typing.Literal:
        return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is dict:
        return isinstance(value, Mapping)
    return not isinstance(kind, type) or isinstance(value, kind)


def _called(kind: object) -> str:
    if _words(kind):
        return "a word"
    kind = typing.get_origin(kind) or kind
    names: dict[object, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a word",
        dict: "names and values",
        list: "a list",
    }
    if dataclasses.is_dataclass(kind):
        return "names and values"
    return names.get(kind, "a word")
