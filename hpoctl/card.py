"""The model card of a final model: what it is, how good, and where it comes from.

Source: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from hpoctl import assets

_FILES = ("path", "train", "validation", "test")  # keys of `dataset` that may name a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One model of an ensemble; `params` in a line."""

    folder: str
    trial: int
    params: str
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """A file that was trained on, by its content."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FromHub:
    """A `kind` of thing, model or dataset, that came from a hub, and its commit there."""

    kind: str
    name: str
    commit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that a model card says. `searched` and `final` are values by metric.

    `params`, `settings` and `data` are YAML. `number` and `name` are of the study that trained the
    model; of a language model `base` is the one that it began as, if it did.
    """

    title: str
    study: str
    trial: int
    trials: int
    name: str
    number: int
    objective: str
    searched: Mapping[str, float]
    final: Mapping[str, float]
    chosen_by: str
    test_split: bool
    language_model: bool
    base: str | None
    base_on_hub: bool
    adapter: bool
    params: str
    settings: str
    data: str
    files: tuple[DataFile, ...]
    hub: tuple[FromHub, ...] = ()
    seed: int | None
    version: str
    commit: str | None
    date: str
    members: tuple[Member, ...] = ()

    def text(self) -> str:
        """README.md, as model hubs read it."""
        made = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
        made.filters["number"] = _number
        metrics = list(dict.fromkeys([*self.searched, *self.final]))
        return made.from_string(assets.read("templates/card.md.j2")).render(
            metrics=metrics, **asdict(self)
        )


def _number(value: object) -> str:
    """As many digits as mean something; nothing where a metric is missing."""
    return f"{value:.6g}" if isinstance(value, int | float) else ""


def data_files(dataset: Mapping[str, object], workdir: Path) -> Iterator[DataFile]:
    """The single files among the data, with their hashes; folders and hub names have none."""
    for key in _FILES:
        if key in dataset and (file := workdir / Path(str(dataset[key])).expanduser()).is_file():
            with file.open("rb") as content:
                digest = hashlib.file_digest(content, "sha256").hexdigest()
            yield DataFile(path=str(dataset[key]), sha256=digest)


def from_hub(trial: Path) -> tuple[FromHub, ...]:
    """What a trial noted in its folder of what it read from a hub."""
    note = trial / "hub.json"
    found = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    return tuple(
        FromHub(kind=kind, name=one["name"], commit=one["commit"]) for kind, one in found.items()
    )


def commit_of(folder: Path) -> str | None:
    """The commit that git has checked out around a folder; None where there is none.

    Read from git's files: its program may not be here, and no process is started for that.
    """
    for parent in (folder, *folder.parents):
        git = parent / ".git"
        if git.is_file():  # a work tree of its own, or a submodule
            git = parent / git.read_text().partition("gitdir:")[2].strip()
        if (git / "HEAD").is_file():
            return _resolve(git)
    return None


def _resolve(git: Path) -> str | None:
    """The commit of HEAD; of a branch that lies in its own file, or packed with others."""
    head = (git / "HEAD").read_text().strip()
    if not head.startswith("ref: "):
        return head or None
    branch = head.removeprefix("ref: ")
    common = git / "commondir"
    shared = (git / common.read_text().strip()) if common.is_file() else git
    for places in (git, shared):
        if (places / branch).is_file():
            return (places / branch).read_text().strip()
    packed = shared / "packed-refs"
    lines: Sequence[str] = packed.read_text().splitlines() if packed.is_file() else ()
    return next((line.split()[0] for line in lines if line.endswith(f" {branch}")), None)
