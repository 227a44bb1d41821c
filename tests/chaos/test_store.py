"""The suite of faults, shortened: a study that is killed, stopped, cut off and filled up is exact.

The whole of it: python tests/chaos/store.py --storage journal --seed 1
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from servers import absent

from chaos.faults import ON_FILE, ON_SERVER, schedule
from chaos.store import Plan, disturb
from chaos.stores import STORAGES


@pytest.mark.parametrize("storage", STORAGES)
def test_a_disturbed_study_has_each_result_once(storage: str, tmp_path: Path) -> None:
    if storage in ("sqlite", "journal") and os.geteuid() != 0:
        absent("mounting a small disk needs root")
    plan = Plan(storage=storage, seed=1, trials=60, faults=20, workers=4, deadline_s=240)
    said = disturb(plan, tmp_path)
    assert said["violations"] == []
    assert (said["finished"], said["distinct"]) == (60, 60)
    assert (said["lost"], said["doubled"]) == (0, 0)


def test_a_seed_gives_the_same_faults_of_every_kind() -> None:
    for weights in (ON_FILE, ON_SERVER):
        plans = [
            schedule(weights, seed=seed, count=20, workers=6, outage_s=60) for seed in (1, 1, 2)
        ]
        assert plans[0] == plans[1] != plans[2]
        assert {fault.kind for fault in plans[0]} == set(weights)
        assert len(plans[0]) == 20
