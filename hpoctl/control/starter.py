"""`init`: the first files of a new user."""

from __future__ import annotations

from pathlib import Path

from hpoctl.assets import asset
from hpoctl.errors import ConfigError


def init(folder: Path) -> tuple[Path, ...]:
    """Writes a starter sweep and its objective; never over a file. Raises ConfigError."""
    starters = [entry for entry in asset("templates/starter").iterdir() if entry.is_file()]
    for starter in starters:
        if (folder / starter.name).exists():
            raise ConfigError(f"{folder / starter.name} is there already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for starter in starters:
        (folder / starter.name).write_text(starter.read_text(encoding="utf-8"), encoding="utf-8")
    return tuple(sorted(folder / starter.name for starter in starters))
