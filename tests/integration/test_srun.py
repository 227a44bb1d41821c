"""A trial on several processes that srun starts, in the allocation of its worker."""

from __future__ import annotations

import json
import sys
from typing import Any

from optuna.trial import TrialState

from integration.conftest import MakeSweep, Sweep

SCRIPT = """
import json

from hpoctl.integrations import run
from hpoctl.trial import Pruned


def train(trial):
    seen = [trial.rank, trial.world, trial.seed, trial.params["training"]["learning_rate"]]
    (trial.dir / f"rank-{trial.rank}").write_text(json.dumps(seen))
    for step in range(1, 6):
        if trial.rank == trial.params["falls"] and step == 3:
            raise SystemExit("it falls")
        trial.report(step + 100.0 * trial.rank, step=step)
        if trial.should_prune():
            raise Pruned
    return 100.0 * trial.rank


run(train)
"""


def on_two_ranks(make_sweep: MakeSweep, *falls: int, **changes: Any) -> Sweep:
    """A finished sweep of one trial for each rank that is to fall; 2 is none."""
    sweep = make_sweep(
        "journal",
        objective=None,
        objective_args=None,
        command=["srun", "--ntasks=2", sys.executable, "train.py"],
        search_space={
            "falls": {"type": "categorical", "values": list(falls)},
            "training": {"learning_rate": {"type": "categorical", "values": [0.5]}},
        },
        sampler="grid",
        budget=None,
        mode="sequential",
        resources={"time": "5m", "cpus": 1, "sbatch": ["--ntasks=2"]},
        **changes,
    )
    (sweep.hpoctl.folder / "train.py").write_text(SCRIPT)
    sweep.submit()
    sweep.await_finished(len(falls))
    return sweep


def test_ranks_of_srun_have_the_same_trial_and_the_first_one_s_result_counts(
    make_sweep: MakeSweep,
) -> None:
    sweep = on_two_ranks(make_sweep, 2, 1, 0)
    states = [trial.state for trial in sweep.trials()]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert sweep.trials()[0].value == 0.0
    folder = sweep.run_dir.trial(0)
    first, second = (json.loads((folder / f"rank-{rank}").read_text()) for rank in (0, 1))
    assert (first[:2], second[:2]) == ([0, 2], [1, 2])
    assert first[2:] == second[2:]


def test_all_ranks_of_srun_leave_when_their_trial_is_pruned(make_sweep: MakeSweep) -> None:
    sweep = on_two_ranks(make_sweep, 2, pruner={"name": "threshold", "upper": 2.5})
    [trial] = sweep.trials()
    assert trial.state is TrialState.PRUNED
    assert trial.last_step == 3
