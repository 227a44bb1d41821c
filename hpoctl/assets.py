"""Reads `slurm/` and `templates/`: inside the wheel, or beside the package in a checkout."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable


def asset(name: str) -> Traversable:
    """The file or folder `name`, such as `slurm/worker.sh`."""
    packaged = files("hpoctl").joinpath("_assets", name)
    if packaged.is_file() or packaged.is_dir():
        return packaged
    return files("hpoctl").joinpath("..", name)


def read(name: str) -> str:
    """The text of an asset."""
    return asset(name).read_text(encoding="utf-8")
