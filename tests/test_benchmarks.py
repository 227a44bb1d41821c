"""The benchmark runs and says what it promises; how fast it is, no test asks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import MariaDB, PostgreSQL

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def measured(script: str, *words: str | Path) -> Any:
    """What a short benchmark says in JSON."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--quick", *words],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_quick_store_benchmark_prints_every_figure(
    postgresql: PostgreSQL, mariadb: MariaDB
) -> None:
    said = measured("store.py", "--json")
    assert said["claims"].keys() == {"postgresql", "mariadb"}
    for both in (
        *said["claims"].values(),
        *(said["round_trips"][k] for k in ("plain", "reports20")),
    ):
        assert both["ours"] > 0
        assert both["optuna"] > 0
    assert said["round_trips"]["plain"]["ours"] <= 6
    assert said["round_trips"]["reports20"]["ours"] <= 26
    assert said["enqueue_10000_s"].keys() == {"postgresql", "mariadb"}
    assert {"ours_s", "ours_mib", "optuna_s"} <= said["status_100k"].keys()
    assert said["status_trials"] == 2_000


def test_the_quick_journal_benchmark_prints_every_figure(tmp_path: Path) -> None:
    said = measured("journal.py", tmp_path)
    assert said["wait_s"].keys() == {"ours SIGKILL"}
    assert said["appends_per_s"].keys() == {"ours", "optuna"}
    assert all(rate > 0 for rate in said["trials_per_s"].values())
    assert list(tmp_path.iterdir()) == []


def test_the_quick_growth_benchmark_prints_every_figure(postgresql: PostgreSQL) -> None:
    said = measured("growth.py")
    for crowds in said["claim_ms"].values():
        assert crowds.keys() == {"100", "1000"}
        assert all(both.keys() == {"ours", "optuna"} for both in crowds.values())
    assert said["tpe_5000"]["sampler_ms"] > 0
    assert said["connections"]["ours"] == 0
    assert said["limit"]["share"] > 0


def test_the_quick_step_benchmark_prints_a_ratio() -> None:
    pytest.importorskip("transformers")
    said = measured("step.py")
    assert said["ratio"] > 0
    assert said["step_ms"].keys() == {"plain", "ours"}
