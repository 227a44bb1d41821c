"""Where a trial's model and data come from: what it read of a hub, at which commit."""

from __future__ import annotations

import json
from pathlib import Path

from hpoctl.objectives.causal_lm.places import Place
from hpoctl.objectives.causal_lm.text import Corpus, Source

_FILE = "hub.json"


def write_origins(folder: Path, place: Place | None, source: Source, text: Corpus) -> None:
    """Leaves `hub.json` in a trial's folder: names and commits; nothing where no hub took part."""
    found = {}
    if place is not None and place.hub is not None:
        found["model"] = {"name": place.name, "commit": place.commit()}
    if source.hub is not None and text.commit is not None:
        found["dataset"] = {"name": source.hub, "commit": text.commit}
    if found:
        said = json.dumps(found, indent=2) + "\n"
        (folder / _FILE).write_text(said, encoding="utf-8")
