"""What `hpoctl check` tells of a language model's sweep on a login node, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SWEEP = """\
study: c
backend: local
objective: hpoctl.objectives.causal_lm
objective_args:
  model: {from_scratch: gpt2}
  dataset: {train: train.jsonl}
  training: {max_steps: 3}
metrics: [{name: eval_loss}]
search_space:
  training: {learning_rate: {type: uniform, min: 0, max: 1}}
budget: {trials: 3}
"""
HEAVY = ("torch", "transformers", "datasets", "tokenizers", "optuna", "pyarrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text(json.dumps({"text": "words"}) + "\n")
    return tmp_path


def check(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """`hpoctl check`; what it has imported ends its output."""
    (folder / "c.yaml").write_text(text)
    code = (
        "import sys; from hpoctl.cli import cli\n"
        "try: cli.main(['check', 'c.yaml'], standalone_mode=False)\n"
        "except Exception as wrong: print(wrong)\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("learning_rate", "lerning_rate", "10: search_space.training.lerning_rate: unknown; did"),
        ("max_steps", "max_step", "7: objective_args.training.max_step: unknown; did you mean"),
        ("from_scratch: gpt2", "from_scratch: gtp2", "5: objective_args.model.from_scratch: "),
        ("from_scratch: gpt2", "pretrained: ./no", "no: there is no such file"),
        ("model: {", "modle: {", "5: objective_args.modle: unknown; did you mean 'model'?"),
        ("train.jsonl", "trian.jsonl", "6: objective_args.dataset.train: "),
        ("name: eval_loss", "name: eval_los", "metrics: 'eval_los' is not measured; did you mean"),
        ("name: eval_loss", "name: kl", "add 'measure: {kl: base}' to objective_args"),
        ("gpt2}", "gpt2, hidden_size: 100}", "5: objective_args.model: hidden_size 100 cannot"),
        ("gpt2}", "gpt2, num_key_value_heads: 4}", "5: objective_args.model: num_key_value_heads"),
        ("gpt2}", "gpt2}\n  lora: {rr: 8}", "6: objective_args.lora.rr: unknown; did you mean 'r'"),
        ("gpt2}", "gpt2}\n  lora: {use_rslora: true}", "lora: needs model.pretrained"),
        ("training: {learning", "dataset: {learning", "search_space.dataset.learning_rate: unk"),
    ],
)
def test_a_mistake_is_told_with_its_line(
    written: str, instead: str, said: str, folder: Path
) -> None:
    assert SWEEP.count(written), written
    done = check(folder, SWEEP.replace(written, instead, 1))
    assert said in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_a_sweep_that_is_right_loads_nothing_heavy(folder: Path) -> None:
    done = check(folder, SWEEP)
    assert "3 trials" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_files_that_a_setup_may_bring_are_not_missed(folder: Path) -> None:
    missing = SWEEP.replace("train.jsonl", "/scratch/of/the/job.jsonl")
    setup = 'resources: {setup: ["cp data.jsonl /scratch/of/the/job.jsonl"]}\n'
    assert "3 trials" in check(folder, missing + setup).stdout


def test_the_names_are_those_that_transformers_has() -> None:
    code = (
        "from hpoctl.objectives.causal_lm import arguments, checks\n"
        "fast = set(checks._training_names()) - set(arguments.ALIASES) - {arguments.RUNGS}\n"
        "assert fast == set(arguments._fields()), fast ^ set(arguments._fields())\n"
        "from hpoctl.objectives.causal_lm import adapters, typed\n"
        "fast = set(typed.names_in('peft', 'tuners/lora/config.py', 'LoraConfig'))\n"
        "assert fast == set(adapters._fields()), fast ^ set(adapters._fields())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
