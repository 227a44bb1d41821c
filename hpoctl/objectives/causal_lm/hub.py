"""What a sweep takes from a hub: fetched once where there is a network, offline from then on.

A note beside the hub's own cache says that a name was fetched whole, and at which commit. Workers
that need nothing without such a note never ask the hub: compute nodes often cannot, and a hundred
workers should not. What has a note is read at that commit, whatever the hub has by now.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hpoctl.objectives.causal_lm.refusals import way_out
from hpoctl.objectives.causal_lm.values import group

if TYPE_CHECKING:
    from datasets import Dataset

# As huggingface_hub's own file system writes it: owner/name@revision/file
_MODEL = re.compile(
    r"(?P<name>\w[\w.-]*(?:/[\w.-]+)?)"
    r"(?:@(?P<revision>refs/[\w-]+/[\w.-]+|[\w.-]+))?"
    r"(?:/(?P<file>(?:[\w.-]+/)*[\w.-]+\.gguf))?"
)
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
_RUN_NOTHING = ("*.ot", "*.tflite", "*.mlmodel", "original/*", "onnx/*", "coreml/*")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What was fetched: where it lies, at which commit, and a data set's files by its splits."""

    path: Path
    commit: str | None = None
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A model or a dataset as a hub knows it.

    `file` is the one that is taken of a model, `config` is a dataset's subset.
    """

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None = None
    config: str | None = None
    file: str | None = None

    @property
    def address(self) -> Path:
        """Where it is noted that this name was fetched."""
        parts = (self.kind, self.name, self.config, self.file, self.revision)
        name = "@".join(part.replace("/", "--") for part in parts if part)
        return _home() / "hpoctl" / f"{name}.json"

    def note(self) -> Note | None:
        """What was fetched of it and is still there."""
        try:
            found = json.loads(self.address.read_text(encoding="utf-8"))
            path, splits = Path(found["path"]), found.get("splits", {})
        except (OSError, ValueError, KeyError):
            return None
        files = [path, *(Path(file) for split in splits.values() for file in split)]
        if not all(file.exists() for file in files):
            return None
        return Note(path=path, commit=found.get("commit"), splits=splits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was fetched, at which commit, where it lies, and its size in bytes."""

    kind: str
    name: str
    commit: str | None
    path: Path
    size: int


def read_model(name: str) -> HubName | None:
    """`owner/name`, with `@revision` or `/file.gguf` or both; None where it is nothing like that.

    A path whose first folder is here is one of this machine, not a name of the hub.
    """
    found = _MODEL.fullmatch(name)
    if found is None or found["name"].endswith(".gguf"):
        return None
    if found["file"] and ("/" not in found["name"] or Path(Path(name).parts[0]).exists()):
        return None
    return HubName(kind="model", name=found["name"], revision=found["revision"], file=found["file"])


def data_set(dataset: Mapping[str, object]) -> HubName | None:
    """What the group `dataset` takes from the hub; None where it is a folder, or something else."""
    if (name := dataset.get("hub")) is None or Path(str(name)).expanduser().exists():
        return None
    revision, config = dataset.get("revision"), dataset.get("config")
    return HubName(
        kind="dataset",
        name=str(name),
        revision=None if revision is None else str(revision),
        config=None if config is None else str(config),
    )


def hub_names(
    args: Mapping[str, object], searched: Mapping[str, Sequence[object]]
) -> tuple[HubName, ...]:
    """All that a sweep's trials may ask a hub for; `searched` are the choices by dotted name."""
    model, measure = group(args, "model"), group(args, "measure")
    others = (measure.get("kl"), measure.get("perplexity"))
    bases = [model.get("pretrained"), *searched.get("model.pretrained", ())]
    data = data_set(group(args, "dataset"))
    teachers = [name for name in others if name not in ("base", "self")]
    names = [*_models([*bases, *teachers]), *([data] if data else [])]
    return tuple(dict.fromkeys(names))


def _models(given: Sequence[object]) -> Iterator[HubName]:
    for name in given:
        here = not isinstance(name, str) or Path(name).expanduser().exists()
        if not here and (found := read_model(str(name))) is not None:
            yield found


def fetch(name: HubName) -> Fetched:
    """Fetches a model or a dataset into the hub's cache, and notes it.

    Raises ValueError, in one line, where the hub cannot give it.
    """
    _be_quiet()
    try:
        note = _fetch_model(name) if name.kind == "model" else _fetch_dataset(name)
    except ImportError:
        raise
    except Exception as wrong:  # of a library of HTTP, which changes with its versions
        raise ValueError(f"{name.kind} {name.name}: {way_out(wrong)}") from wrong
    _write(name.address, note)
    files = [note.path] if note.path.is_file() else note.path.rglob("*")
    return Fetched(
        kind=name.kind,
        name=name.name if name.file is None else f"{name.name}/{name.file}",
        commit=note.commit,
        path=note.path,
        size=sum(file.stat().st_size for file in files if file.is_file()),
    )


def _be_quiet() -> None:
    """No bars where nobody looks; to be called before huggingface_hub is imported."""
    if not os.isatty(2):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


def _write(address: Path, note: Note) -> None:
    address.parent.mkdir(parents=True, exist_ok=True)
    said = {"path": str(note.path), "commit": note.commit, "splits": note.splits}
    partial = address.with_name(f"{address.name}.{os.getpid()}")
    partial.write_text(json.dumps(said) + "\n", encoding="utf-8")
    partial.replace(address)


def _fetch_model(name: HubName) -> Note:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    # Asked first: where there is no hub, the others give what is left in the cache, or try long.
    files = HfApi().model_info(name.name, revision=name.revision).siblings or []
    if name.file is not None:
        path = Path(hf_hub_download(name.name, name.file, revision=name.revision))
    else:
        safe = any(file.rfilename.endswith(".safetensors") for file in files)
        ignored = [*_RUN_NOTHING, *(_OTHER_FORMATS if safe else ())]
        path = Path(snapshot_download(name.name, revision=name.revision, ignore_patterns=ignored))
    return Note(path=path, commit=commit_in(path))


def _fetch_dataset(name: HubName) -> Note:
    rows = load_dataset(name)
    splits = {part: [file["filename"] for file in rows[part].cache_files] for part in rows}
    path = Path(next(iter(splits.values()))[0]).parent
    return Note(path=path, commit=commit_in(path), splits=splits)


def open_dataset(name: HubName) -> dict[str, Dataset]:
    """Its splits: as they were fetched, else from the hub. Raises ValueError, in one line."""
    import datasets

    try:
        if (note := name.note()) is None:
            return load_dataset(name)
        # By file: offline, load_dataset takes the newest that is in the cache, of any revision.
        return {
            part: datasets.concatenate_datasets([datasets.Dataset.from_file(f) for f in files])
            for part, files in note.splits.items()
        }
    except Exception as wrong:  # as in `fetch`
        raise ValueError(f"dataset.hub: {name.name}: {way_out(wrong)}") from wrong


def load_dataset(name: HubName) -> dict[str, Dataset]:
    """The splits at the commit that a revision stands for now, or the newest."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not HF_HUB_OFFLINE:
        # Where there is no hub, load_dataset tries long, and takes another revision in the end.
        commit = HfApi().dataset_info(name.name, revision=name.revision).sha
        return dict(datasets.load_dataset(name.name, name.config, revision=commit))
    if name.revision is not None:
        raise ValueError("its revision was not fetched, and without the hub none can be told")
    return dict(datasets.load_dataset(name.name, name.config))


def commit_in(path: Path) -> str | None:
    """The commit of what lies at a path of the hub's cache, or of that of data sets."""
    return next((part for part in reversed(path.parts) if _COMMIT.fullmatch(part)), None)


def to_fetch(names: Sequence[HubName]) -> list[str]:
    """Those that no `fetch` has brought here."""
    return [name.name for name in names if name.note() is None]


def go_offline(names: Sequence[HubName]) -> bool:
    """Lets this process ask no hub where all of `names` were fetched; whether it is so.

    To be called before transformers, datasets or huggingface_hub is imported: they look once.
    """
    if not names or to_fetch(names):
        return False
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    return True


def _home() -> Path:
    """HF_HOME as huggingface_hub finds it, which must not be imported for that."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()
