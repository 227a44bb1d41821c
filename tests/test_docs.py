"""The pages say what is so: links, sweeps, commands, keys, words and the tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, get_args, get_origin

import click
import pytest
from pydantic import BaseModel

from hpoctl import config
from hpoctl.cli import cli
from hpoctl.space_file import TYPES
from hpoctl.sweep import Sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
REFERENCE = ROOT / "docs/reference/sweep-file.md"
COMMANDS = ROOT / "docs/reference/cli.md"
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_HEREDOC = re.compile(r"<<'END'\n(.*?)^END$", re.DOTALL | re.MULTILINE)
_MENTION = re.compile(r"\bhpoctl ((?:(?:workers|db) )?[a-z]+)\b")
_SPACE_KEYS = frozenset(("type", "min", "max", "values", "step", "log", "when", "divides", "prior"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def fences(page: Path) -> list[tuple[str, str]]:
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def sweeps() -> list[tuple[str, str]]:
    """Every sweep that a page shows: name of the page and text."""
    found = []
    for page in PAGES:
        for language, text in fences(page):
            shown = [text] if language == "yaml" else _HEREDOC.findall(text)
            for sweep in shown:
                if sweep.startswith("study:"):
                    found.append((name_of(page), sweep))
    return found


def code(page: Path) -> Iterator[str]:
    """What stands in boxes that are typed or printed, and between single backticks."""
    text = page.read_text(encoding="utf-8")
    yield from (shown for _, shown in _FENCE.findall(text))
    yield from re.findall(r"`([^`]+)`", _FENCE.sub("", text))


def known_commands() -> set[str]:
    whole = set(cli.commands)
    for name, command in cli.commands.items():
        if isinstance(command, click.Group):
            whole |= {f"{name} {verb}" for verb in command.commands}
    return whole


def models(kind: object) -> Iterator[type[BaseModel]]:
    """The pydantic models in an annotation, also below unions and tuples, and in their fields."""
    if get_origin(kind) is Annotated:
        yield from models(get_args(kind)[0])
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models(field.annotation)
    else:
        for part in get_args(kind):
            yield from models(part)


def tables() -> dict[str, set[str]]:
    """First columns of the reference's tables whose head is `key`, by heading."""
    found: dict[str, set[str]] = {}
    heading, in_keys = "", False
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading, in_keys = line.lstrip("# "), False
        elif line.startswith("| key "):
            in_keys = True
        elif not line.startswith("|"):
            in_keys = False
        elif in_keys:
            first = line.split("|")[1]
            found.setdefault(heading, set()).update(re.findall(r"`(\w+)`", first))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_or_a_heading_resolves(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)}: {target}"
        assert linked.is_relative_to(ROOT), f"{name_of(page)}: {target} leaves the project"
        if anchor:
            assert anchor in anchors(linked), f"{name_of(page)}: no heading for {target}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            linked = (page.parent / target.partition("#")[0]).resolve()
            if linked.suffix == ".md" and linked.is_file():
                waiting.append(linked)
    assert [name_of(page) for page in PAGES if page not in reached] == []


@pytest.mark.parametrize(("page", "text"), sweeps())
def test_every_sweep_that_a_page_shows_is_valid(page: str, text: str) -> None:
    config.parse(text, page)


def test_pages_show_sweeps() -> None:
    assert len(sweeps()) >= 6


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_a_page_shows_exists(page: Path) -> None:
    known = known_commands()
    for shown in code(page):
        for mention in _MENTION.findall(shown):
            assert mention in known or mention.split()[0] in known - {"workers", "db"}, mention


def test_every_command_and_flag_has_its_place_in_the_reference() -> None:
    text = COMMANDS.read_text(encoding="utf-8")
    headings = {line.removeprefix("### hpoctl ") for line in text.splitlines() if "###" in line}
    shown = {name for name in known_commands() if not getattr(command(name), "hidden", False)}
    assert headings == {name for name in shown if not isinstance(command(name), click.Group)}
    for name in shown:
        for parameter in command(name).params:
            if isinstance(parameter, click.Option):
                for flag in parameter.opts:
                    assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", text), f"{name} {flag}"


def command(name: str) -> click.Command:
    first, _, verb = name.partition(" ")
    found = cli.commands[first]
    if verb:
        assert isinstance(found, click.Group)
        return found.commands[verb]
    return found


def test_every_key_of_the_models_is_in_the_reference_and_the_other_way_round() -> None:
    keys = {"Top level": set(Sweep.model_fields)}
    for key, field in Sweep.model_fields.items():
        below = {name for model in models(field.annotation) for name in model.model_fields}
        if below:
            keys[key] = below
    keys["search_space"] = set(_SPACE_KEYS)
    assert tables() == keys


def test_every_type_of_a_parameter_is_in_the_reference() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for kind, (_, _, takes) in TYPES.items():
        assert f"`{kind}`" in text
        assert set(takes) <= _SPACE_KEYS


def test_the_words_of_the_glossary_are_each_explained_once() -> None:
    lines = (ROOT / "docs/glossary.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[1:4] for line in lines if line.startswith("| ") and "---" not in line]
    words = [word.strip() for row in rows[1:] for word in row[0].split(",")]
    assert len(words) == len(set(words))
    assert all(meaning.strip() for _, meaning, _ in rows)
    for needed in ("Sweep", "Study", "Trial", "Objective", "Budget", "Worker", "Mode", "Backend"):
        assert needed in words


def test_the_tree_of_the_architecture_is_the_tree() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"^[├└]── (\S+)", text, re.MULTILINE))
    package = ROOT / "hpoctl"
    there = {path.name for path in package.glob("*.py") if not path.name.startswith("__")}
    there |= {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert drawn == there


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_shows_a_password(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"://\w+:([^@\s/]+)@", text)) <= {"PASSWORD", "***"}
