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
    (tmp_path / "latin.csv").write_bytes(b"text\ncaf\xe9\n")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text("{}")
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
        (
            "max_steps: 3",
            "lr: '1e-4'",
            "training.lr: is '1e-4', but must be a number: write 1e-4, ",
        ),
        ("max_steps: 3", "batch_size: 0", "7: objective_args.training.batch_size: is 0, but must"),
        ("max_steps: 3", "learning_rate: -1", "7: objective_args.training.learning_rate: is -1"),
        ("max_steps: 3", "seed: 1", "7: objective_args.training.seed: is always the trial's seed"),
        (
            "max_steps: 3",
            "optim: adamw_trch",
            "optim: 'adamw_trch' is not known; did you mean 'adamw_",
        ),
        (
            "max_steps: 3",
            "schedule: cosin",
            "training.schedule: 'cosin' is not known; did you mean",
        ),
        ("max_steps: 3", "rungs: [5, 2]", "training.rungs: is [5, 2], but must be growing steps"),
        ("min: 0, max: 1", "min: -1, max: 1", "search_space.training.learning_rate: is -1"),
        ("type: uniform, min: 0, max: 1", "type: categorical, values: [x]", "is 'x', but must be"),
        (
            "train.jsonl",
            "train.jsonl, text_column: txt",
            "train.jsonl:1: no text in the field 'txt'",
        ),
        ("train.jsonl", "latin.csv", "6: objective_args.dataset.train: "),
        ("from_scratch: gpt2", "pretrained: bare", "no tokenizer in bare: copy tokenizer.json"),
        (
            "objectives.causal_lm",
            "objectives.casual_lm",
            "3: objective: no module 'hpoctl.objectives.cas",
        ),
        (
            "objectives.causal_lm",
            "objectives.causal_lm:train",
            "3: objective: hpoctl.objectives.causal_lm",
        ),
    ],
)
def test_a_mistake_is_told_with_its_line(
    written: str, instead: str, said: str, folder: Path
) -> None:
    assert SWEEP.count(written), written
    done = check(folder, SWEEP.replace(written, instead, 1))
    assert said in done.stdout, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_a_limit_on_what_is_not_measured_is_told_with_its_own_key(folder: Path) -> None:
    done = check(folder, f"{SWEEP}constraints: [{{name: memory_gbb, max: 8}}]\n")
    assert "12: constraints: 'memory_gbb' is not measured; did you mean 'memory_gb'" in done.stdout


def test_a_model_that_is_no_folder_here_is_said_to_come_from_the_hub(folder: Path) -> None:
    done = check(folder, SWEEP.replace("from_scratch: gpt2", "pretrained: mine/gtp2"))
    assert "hub: mine/gtp2: no such folder here" in done.stderr + done.stdout
    assert "hub:" not in check(folder, SWEEP).stderr


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
