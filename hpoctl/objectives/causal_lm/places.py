"""Where a trained model and its tokenizer are: a folder, a GGUF file, or a name on the hub."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from hpoctl.objectives.causal_lm import hub
from hpoctl.objectives.causal_lm.hub import HubName

KEY = "model.pretrained"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a trained model and its tokenizer are: `from_pretrained(**place.arguments())`."""

    name: str  # as it is given
    source: str  # a name on the hub, or a folder
    gguf_file: str | None = None  # in that source
    hub: HubName | None = None  # where it is from there

    def arguments(self) -> dict[str, str]:
        """What `from_pretrained` of a configuration, a model or a tokenizer takes."""
        found = {
            "pretrained_model_name_or_path": self.source,
            "gguf_file": self.gguf_file,
            "revision": self._revision(),
        }
        return {name: value for name, value in found.items() if value is not None}

    def _revision(self) -> str | None:
        """That which was fetched, so that no trial of a sweep has a newer one."""
        if self.hub is None:
            return None
        note = self.hub.note()
        return self.hub.revision if note is None else note.commit

    def file(self) -> Path | None:
        """The GGUF file, fetched if need be; None where it is none."""
        if self.gguf_file is None:
            return None
        if self.hub is None:
            return Path(self.source, self.gguf_file)
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.source, self.gguf_file, revision=self._revision()))

    def commit(self) -> str | None:
        """The commit of the hub that was read from; None of what is not from there."""
        if self.hub is None:
            return None
        from huggingface_hub import try_to_load_from_cache

        file = self.gguf_file or "config.json"
        found = try_to_load_from_cache(self.source, file, revision=self._revision())
        return hub.commit_in(Path(found)) if isinstance(found, str) else None


# Kept for the reason that the weights are: what was found before the fork, each child has.
@functools.cache
def locate(name: str, key: str = KEY) -> Place:
    """Where the model of this name is; a folder comes before the hub. Raises ValueError."""
    path = Path(name).expanduser()
    if path.is_dir():
        return Place(name=name, source=str(path), gguf_file=_gguf_in(path, key))
    if path.suffix == ".gguf" and path.is_file():
        return Place(name=name, source=str(path.parent), gguf_file=path.name)
    found = None if path.exists() else hub.read_model(name)
    if found is None:
        wrong = "is neither a folder nor a .gguf file" if path.exists() else "there is no such file"
        raise ValueError(f"{key}: {path.absolute()}: {wrong}")
    return Place(name=name, source=found.name, gguf_file=found.file, hub=found)


def _gguf_in(folder: Path, key: str) -> str | None:
    """The GGUF file of a folder that holds nothing better."""
    if (folder / "config.json").exists():
        return None
    files = sorted(path.name for path in folder.glob("*.gguf"))
    if len(files) != 1:
        found = f"several .gguf files: name one of {', '.join(files)}" if files else "no .gguf file"
        raise ValueError(f"{key}: {folder.absolute()}: no config.json, and {found}")
    return files[0]
