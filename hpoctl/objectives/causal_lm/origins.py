"""Where a trial's model and data come from: what it read of a hub, at which commit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.text import Corpus, Source

_FILE = "hub.json"


def write_origins(folder: Path, models: Mapping[str, object], source: Source, text: Corpus) -> None:
    """Leaves `hub.json` in a trial's folder: names and commits; nothing where no hub took part.

    `models` are names by what the model is there for; None, base and self are no names.
    """
    found = {}
    for use, name in models.items():
        place = None if name in (None, "base", "self") else locate(str(name))
        if place is not None and place.hub is not None:
            found[use] = {"name": place.name, "commit": place.commit()}
    if source.hub is not None and text.commit is not None:
        found["dataset"] = {"name": source.hub, "commit": text.commit}
    if found:
        said = json.dumps(found, indent=2) + "\n"
        (folder / _FILE).write_text(said, encoding="utf-8")
