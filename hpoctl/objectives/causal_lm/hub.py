"""What a sweep takes from a hub: fetched once where there is a network, offline from then on.

A note beside the hub's own cache says that a name was fetched whole. Workers that need nothing
without such a note never ask the hub: compute nodes often cannot, and a hundred workers should not.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hpoctl.objectives.causal_lm.values import group

_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
_RUN_NOTHING = ("*.ot", "*.tflite", "*.mlmodel", "original/*", "onnx/*", "coreml/*")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubName:
    """A model or a dataset as a hub knows it; `config` is a dataset's subset."""

    kind: Literal["model", "dataset"]
    name: str
    revision: str | None = None
    config: str | None = None

    @property
    def note(self) -> Path:
        """Where it is noted that this name was fetched."""
        parts = (self.kind, self.name.replace("/", "--"), self.config, self.revision)
        return _home() / "hpoctl" / ("@".join(part for part in parts if part) + ".json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """What was fetched, where it lies, and its size in bytes."""

    kind: str
    name: str
    path: Path
    size: int


def hub_names(
    args: Mapping[str, object], searched: Mapping[str, Sequence[object]]
) -> tuple[HubName, ...]:
    """All that a sweep's trials may ask a hub for; `searched` are the choices by dotted name."""
    model, dataset = group(args, "model"), group(args, "dataset")
    measure = group(args, "measure")
    bases = [model.get("pretrained"), *searched.get("model.pretrained", ())]
    teacher = measure.get("kl")
    names = [*_models([*bases, None if teacher == "base" else teacher])]
    if (data := dataset.get("hub")) is not None and not _is_here(str(data)):
        revision, config = dataset.get("revision"), dataset.get("config")
        names.append(
            HubName(
                kind="dataset",
                name=str(data),
                revision=None if revision is None else str(revision),
                config=None if config is None else str(config),
            )
        )
    return tuple(dict.fromkeys(names))


def fetch(name: HubName) -> Fetched:
    """Fetches a model or a dataset into the hub's cache, and notes it.

    Raises OSError or ValueError as huggingface_hub and datasets do.
    """
    path = _fetch_model(name) if name.kind == "model" else _fetch_dataset(name)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    name.note.parent.mkdir(parents=True, exist_ok=True)
    partial = name.note.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps({"path": str(path), "bytes": size}) + "\n", encoding="utf-8")
    partial.replace(name.note)
    return Fetched(kind=name.kind, name=name.name, path=path, size=size)


def go_offline(names: Sequence[HubName]) -> bool:
    """Lets this process ask no hub where all of `names` were fetched; whether it is so.

    To be called before transformers, datasets or huggingface_hub is imported: they look once.
    """
    if not names or not all(map(_is_fetched, names)):
        return False
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    return True


def _models(given: Sequence[object]) -> Iterator[HubName]:
    for name in given:
        if isinstance(name, str) and _NAME.fullmatch(name) and not _is_here(name):
            yield HubName(kind="model", name=name)


def _is_here(name: str) -> bool:
    return name.endswith(".gguf") or Path(name).expanduser().exists()


def _is_fetched(name: HubName) -> bool:
    try:
        return Path(json.loads(name.note.read_text(encoding="utf-8"))["path"]).exists()
    except (OSError, ValueError):
        return False


def _home() -> Path:
    """HF_HOME as huggingface_hub finds it, which must not be imported for that."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or Path(cache) / "huggingface").expanduser()


def _fetch_model(name: HubName) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    files = HfApi().model_info(name.name, revision=name.revision).siblings or []
    safe = any(file.rfilename.endswith(".safetensors") for file in files)
    ignored = [*_RUN_NOTHING, *(_OTHER_FORMATS if safe else ())]
    path = snapshot_download(name.name, revision=name.revision, ignore_patterns=ignored)
    return Path(path)


def _fetch_dataset(name: HubName) -> Path:
    from datasets import load_dataset

    parts = load_dataset(name.name, name.config, revision=name.revision)
    first = next(iter(parts.values()))
    return Path(first.cache_files[0]["filename"]).parent
