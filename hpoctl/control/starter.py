"""`init`: the first files of a new user."""

from __future__ import annotations

from pathlib import Path

from hpoctl.assets import asset
from hpoctl.backends.slurm.profile import profile
from hpoctl.errors import ConfigError
from hpoctl.words import nearest

_BLANK = """\
  # partition: gpu
  # account: my-project
  # gpus: 1              # or A100:1"""


def init(folder: Path, template: str = "starter") -> tuple[Path, ...]:
    """Writes a sweep to begin with, and its objective; never over a file. Raises ConfigError.

    What the cluster says of itself stands in the sweep: partition, account, GPUs.
    """
    known = sorted(entry.name for entry in asset("templates").iterdir() if entry.is_dir())
    if template not in known:
        raise ConfigError(f"--template {template}: unknown; {nearest(template, known)}")
    starters = [entry for entry in asset(f"templates/{template}").iterdir() if entry.is_file()]
    for starter in starters:
        if (folder / starter.name).exists():
            raise ConfigError(f"{folder / starter.name} is there already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for starter in starters:
        text = starter.read_text(encoding="utf-8")
        if starter.name == "sweep.yaml":
            text = text.replace(_BLANK, "\n".join(profile()) or _BLANK)
        (folder / starter.name).write_text(text, encoding="utf-8")
    return tuple(sorted(folder / starter.name for starter in starters))
