"""The course text's grid of 81 architectures: each cell once, however many workers share it."""

from __future__ import annotations

from itertools import product

import pytest

from integration.conftest import MakeSweep

ARCHITECTURES = {
    "num_layers": [6, 12, 24],
    "hidden_size": [512, 768, 1024],
    "num_heads": [8, 12, 16],
    "ff_dim": [2048, 3072, 4096],
}


@pytest.mark.parametrize(("storage", "workers"), [("postgresql", 8), ("sqlite", 4), ("journal", 4)])
def test_every_cell_runs_once(make_sweep: MakeSweep, storage: str, workers: int) -> None:
    sweep = make_sweep(
        storage,
        backend="local",
        mode="async",
        workers=workers,
        sampler="grid",
        budget=None,
        objective_args={"seconds": 0.02, "steps": 2},
        search_space={
            "model": {
                name: {"type": "categorical", "values": values}
                for name, values in ARCHITECTURES.items()
            }
        },
    )
    sweep.submit()
    sweep.await_finished(81)
    sweep.assert_each_ran_once(81)
    cells = [tuple(trial.params.values()) for trial in sweep.trials()]
    assert cells == list(product(*ARCHITECTURES.values()))
    assert sum(worker.trials > 0 for worker in sweep.summary().workers) > 1
