"""What a step of a `causal_lm` trial costs beside the same step of a plain Trainer script.

Both train the same model on the same rows, in turns, in one process. A training's step is the
median of its steps, the ratio the median of the pairs, with an interval that holds it in 95 of 100
runs (of order statistics: Conover 1999, 3.2). On a CPU seconds are those of the processor, which
other programs disturb less than the clock's; on a GPU the clock's. Run it on a machine that does
nothing else:

    python benchmarks/step.py             # 4 minutes
    python benchmarks/step.py --quick     # some seconds, for a test: too short to mean anything
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from hpoctl.objectives.causal_lm import arguments, create_llm, text, training

_WARM_UP = 5  # steps that are not timed


@dataclass(kw_only=True)
class Alone:
    """A trial that nobody watches: what is timed is the objective's side."""

    dir: Path
    seed: int = 0
    number: int = 0
    cpus: int = 1
    parent_dir: Path | None = None
    hands_on: bool = False
    attempt: int = 1
    resumed: bool = False
    metrics: tuple[str, ...] = ("eval_loss",)
    params: dict[str, object] = field(default_factory=dict)
    args: dict[str, object] = field(default_factory=dict)

    def report(self, value: float, step: int, **extra: float) -> None:
        """Nobody hears it."""

    def should_prune(self) -> bool:
        return False

    def should_checkpoint(self) -> bool:
        return False


class Clock(TrainerCallback):
    """When each step ended, after the first few."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Notes the time."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step >= _WARM_UP:
            on_gpu = torch.cuda.is_available()
            self.ended.append(time.perf_counter() if on_gpu else time.process_time())


def timed(make: Callable[[Path], Trainer]) -> float:
    """Seconds of a step of one training."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        set_seed(0)
        trainer = make(Path(folder))
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return statistics.median(after - before for before, after in pairwise(clock.ended))


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """The order statistics between which the median lies, with 95 % of confidence."""
    ranked = sorted(ratios)
    beside = max(0, int((len(ranked) - 1.96 * math.sqrt(len(ranked))) / 2))
    return ranked[beside], ranked[-1 - beside]


def main() -> None:
    """Prints the ratio, and what it comes from, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    pairs, steps, layers = (3, 10, 1) if quick else (30, 35, 4)
    torch.set_num_threads(1)
    rows = text.corpus(*text.read_source({"builtin": "pydoc", "block_size": 64}))

    def model() -> PreTrainedModel:
        return create_llm(layers, 128, 4, 512, 2000, block_size=64)

    def plain(folder: Path) -> Trainer:
        made = TrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=8,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            logging_strategy="no",
        )
        collate = text.collate
        return Trainer(model=model(), args=made, train_dataset=rows.train, data_collator=collate)

    def ours(folder: Path) -> Trainer:
        trial = Alone(dir=folder)
        given = {"steps": steps, "batch_size": 8, "eval_strategy": "no"}
        made = arguments.training_arguments(arguments.fields(given, {}), trial, 1)
        return training.create_trainer(model(), rows, made, trial)

    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    timed(plain)
    for number in range(pairs):
        order = [("plain", plain), ("ours", ours)]
        for name, make in order if number % 2 else order[::-1]:  # who is second is no better off
            seconds[name].append(timed(make))
    ratios = [one / other for one, other in zip(seconds["ours"], seconds["plain"], strict=True)]
    said = {
        "ratio": statistics.median(ratios),
        "ratio_95": interval(ratios),
        "ratio_quartiles": statistics.quantiles(ratios, n=4),
        "step_ms": {name: 1000 * statistics.median(each) for name, each in seconds.items()},
        "pairs": pairs,
        "steps": steps - _WARM_UP,
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }
    json.dump(said, sys.stdout, indent=2)
    print()


if __name__ == "__main__":
    main()
