"""Any objective for a few steps, measured and held within a limit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

# A process of its own, as a trial has one: its limits and its peak are nobody else's.
RUN = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[2])
from hpoctl.failures import TrialFailed
from hpoctl.objectives import measured
from hpoctl.trial import Pruned
given = json.loads(sys.argv[1])
folder = Path(given["dir"])
folder.mkdir(exist_ok=True)
trial = SimpleNamespace(
    dir=folder, args=given["args"], params=given["params"], number=given["number"], seed=1,
    cpus=1, attempt=1, should_checkpoint=lambda: False, metrics=["peak_gb"],
    parent_dir=None, hands_on=False,
)
measured.prepare(trial.args)
try:
    print(json.dumps(measured.objective(trial)))
except TrialFailed as failed:
    print(json.dumps({"failed": str(failed), "cause": failed.cause}))
except MemoryError:
    print(json.dumps({"failed": "MemoryError", "cause": "host_oom"}))
except Pruned as pruned:
    print(json.dumps({"pruned": str(pruned)}))
"""
MINE = """
import time

def prepare(args):
    args["mib"]

def objective(trial):
    trial.report(1.0, step=1)
    held = []
    for _ in range(trial.args["mib"] // 10):
        held.append(bytearray(b"x" * (10 << 20)))
        time.sleep(0.01)
    steps = trial.params.get("training", trial.args)["max_steps"]
    return {"loss": float(steps), "memory_gb": 7.0}
"""


def measure(
    folder: Path, number: int = 0, params: Mapping[str, object] | None = None, **given: Any
) -> dict[str, Any]:
    (folder / "mine.py").write_text(MINE)
    args = {"of": {"objective": "mine", "args": {"mib": 50, "max_steps": 3}}, "steps": 3, **given}
    asked = json.dumps(
        {"dir": str(folder / str(number)), "args": args, "number": number, "params": params or {}}
    )
    command = [sys.executable, "-c", RUN, asked, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def of(mib: int) -> dict[str, object]:
    return {"objective": "mine", "args": {"mib": mib, "max_steps": 3}}


def test_host_memory_and_time_are_measured_and_the_rest_is_kept(tmp_path: Path) -> None:
    little, much = measure(tmp_path), measure(tmp_path, of=of(250))
    assert little["loss"] == 3.0
    assert much["peak_gb"] - little["peak_gb"] == pytest.approx(200 / 1024, rel=0.2)
    assert little["step_s"] > 0


def test_on_a_gpu_the_objectives_own_word_counts(tmp_path: Path) -> None:
    assert measure(tmp_path, on_gpu=True)["peak_gb"] == 7.0
    refused = measure(tmp_path, on_gpu=True, limit_gb=6.5)
    assert refused == {"failed": "took 7.00 GB, the limit is 6.5 GB", "cause": "host_oom"}


@pytest.mark.parametrize("mib", [400, 4000])
def test_what_does_not_fit_is_ended_as_out_of_memory(tmp_path: Path, mib: int) -> None:
    assert measure(tmp_path, of=of(mib), limit_gb=0.2)["cause"] == "host_oom"


def test_after_one_that_did_not_fit_larger_ones_are_not_tried(tmp_path: Path) -> None:
    rising: dict[str, Any] = {"rising": True, "limit_gb": 0.3}
    assert "peak_gb" in measure(tmp_path, 0, **rising)
    assert "failed" in measure(tmp_path, 1, of=of(900), **rising)
    assert measure(tmp_path, 2, **rising) == {"pruned": "a smaller one did not fit"}
    assert "failed" in measure(tmp_path, 1, of=of(900), **rising)  # itself is tried again


def test_a_program_is_measured_by_what_it_took(tmp_path: Path) -> None:
    code = "import os, json; held = b'x' * (300 << 20); steps = os.environ['HPOCTL_ARG_MAX_STEPS']"
    words = [sys.executable, "-c", f"{code}; print(json.dumps(dict(loss=float(steps))))"]
    args, metrics = {"max_steps": 3}, [{"name": "loss"}]
    found = measure(tmp_path, of={"command": words, "args": args, "metrics": metrics})
    assert found["loss"] == 3.0
    assert found["peak_gb"] > 300 / 1024


def test_a_searched_number_of_steps_is_as_few_too(tmp_path: Path) -> None:
    long = {"training": {"max_steps": 100_000, "batch_size": 8}}
    assert measure(tmp_path, params=long)["loss"] == 3.0
    echo = "import os, json; p = os.environ; loss = float(p['HPOCTL_PARAM_TRAINING_MAX_STEPS'])"
    command = [sys.executable, "-c", f"{echo}; print(json.dumps(dict(loss=loss)))"]
    program = {"command": command, "args": {}, "metrics": [{"name": "loss"}]}
    assert measure(tmp_path, params=long, of=program)["loss"] == 3.0
