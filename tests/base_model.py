"""A tiny language model on disk, as a user has one whom no hub is open to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SWEEP = """\
study: base
backend: local
objective: hpoctl.objectives.causal_lm
objective_args:
  dataset: {builtin: pydoc, max_length: 32, vocab_size: 300, max_blocks: 100}
  model: {from_scratch: llama, num_layers: 1, hidden_size: 16, num_heads: 2, ff_dim: 32}
  training: {max_steps: 2}
  save: true
metrics: [{name: eval_loss}]
search_space: {training: {learning_rate: {type: categorical, values: [1e-2]}}}
budget: {trials: 1}
"""


def make_model(folder: Path) -> Path:
    """The folder of the model, which a sweep of one trial in `folder` trains and saves."""
    folder.mkdir(exist_ok=True)
    (folder / "base.yaml").write_text(SWEEP)
    done = subprocess.run(
        [sys.executable, "-m", "hpoctl", "run", "base.yaml"],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs/base/trials/00000/model"
