"""Studies to test with: sweeps, and the four storages that a study may live in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hpoctl import config
from hpoctl.study.location import Kind, Location, parse_url
from hpoctl.sweep import Sweep

MakeSweep = Callable[..., Sweep]


@pytest.fixture
def make_sweep() -> MakeSweep:
    """Builds a sweep of two parameters, in which every key may be replaced."""

    def make(**changes: object) -> Sweep:
        tree: dict[str, object] = {
            "study": "a study",
            "objective": "hpoctl.objectives.toy",
            "search_space": {
                "lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1},
                "layers": {"type": "int", "min": 1, "max": 64},
            },
            "sampler": "random",
            "budget": {"trials": 12},
            **changes,
        }
        given = {key: value for key, value in tree.items() if value is not None}
        return config.parse(json.dumps(given), "sweep.yaml")

    return make


@pytest.fixture(params=[*Kind])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A storage without any study in it, of each kind in turn."""
    kind: Kind = request.param
    match kind:
        case Kind.JOURNAL:
            return Location(kind=kind, url=str(tmp_path / "the study.journal"))
        case Kind.SQLITE:
            return Location(kind=kind, url=str(tmp_path / "the study.db"))
        case Kind.POSTGRESQL:
            return parse_url(request.getfixturevalue("postgresql_url"), "a test")
        case Kind.MYSQL:
            return parse_url(request.getfixturevalue("mariadb_url"), "a test")
