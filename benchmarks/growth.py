"""How a study's cost grows, ours beside Optuna's own, and where the database itself ends.

`python benchmarks/growth.py [--quick]` starts a PostgreSQL of its own in a temporary folder and
prints one JSON object:

- `claim_ms`: a claim, by how many other trials wait or run in the study
- `tpe_5000`: a claim with TPE in a study of 5,000 finished trials: the sampler's own time, the time
  of all that surrounds it, and what share of the sampler's time that is
- `connections`: of a worker while its objective runs
- `limit`: transactions a second that pgbench reaches on the same server by its script
  `simple-update` (an update, a select, an insert), our trials a second, and how much of the limit
  their two transactions each are
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna
from optuna.storages import RDBStorage
from servers import PostgreSQL, postgresql_bin
from sqlalchemy import make_url
from store import fill, make_sweep, prepare, rate

from hpoctl.plan import queue
from hpoctl.record import WorkerRecord
from hpoctl.study import store, translate
from hpoctl.study.connect import connect, engine_url
from hpoctl.study.location import Location, parse_url
from hpoctl.sweep import Sweep

WORKER = WorkerRecord(task="7_1", node="n", pid=1, gpus=0, started_at=1.0)


def optunas(location: Location, study: str) -> optuna.Study:
    """A study as Optuna's users open it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = RDBStorage(engine_url(location), skip_compatibility_check=True)
    return optuna.load_study(
        study_name=study, storage=storage, sampler=optuna.samplers.RandomSampler()
    )


def execute(location: Location, sql: str, *words: object) -> Any:
    """One statement, and its rows."""
    connection: Any = connect(location, writing=True)
    cursor = connection.cursor()
    cursor.execute(sql, words)
    rows = cursor.fetchall() if cursor.description else None
    connection.close()
    return rows


def median_ms(action: Callable[[], object], times: int) -> float:
    """Milliseconds of an action, the median of so many."""
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        took.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(took), 3)


def claims(location: Location, crowd: int, state: str, times: int) -> dict[str, float]:
    """A claim of ours and of Optuna's in a study with so many other trials in a state."""
    found: dict[str, float] = {}
    for way in ("ours", "optuna"):
        sweep = make_sweep(f"{state} {crowd} {way}", crowd + times)
        store.create(location, sweep, queue(sweep), owner="benchmark")
        if state == "running":
            execute(
                location,
                "update trials set state = 'RUNNING', datetime_start = now() from studies"
                " where trials.study_id = studies.study_id and study_name = %s and number < %s",
                sweep.study,
                crowd,
            )
        execute(location, "analyze")
        ours = way == "ours"
        ask = claim_of_ours(location, sweep) if ours else optunas(location, sweep.study).ask
        found[way] = median_ms(ask, times if ours else max(3, times // 20))
    return found


def claim_of_ours(location: Location, sweep: Sweep) -> Callable[[], object]:
    """A worker's claim."""
    study = store.open_(location, sweep)
    worker = study.sign_on(WORKER)
    return lambda: study.claim(worker)


class Timed:
    """A sampler, and the seconds that Optuna spent in it."""

    def __init__(self, sampler: optuna.samplers.BaseSampler) -> None:
        self.sampler, self.seconds = sampler, 0.0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.sampler, name)

        def timed(*args: Any, **given: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*args, **given)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed if callable(method) else method


def tpe(location: Location, trials: int, times: int) -> dict[str, float]:
    """A worker's claim and end of a trial with TPE, after so many finished ones."""
    prepare(location, make_sweep("tpe", trials), "ours")
    fill(location, "tpe", trials)
    sweep = make_sweep("tpe", trials + times, sampler="tpe")
    study = store.open_(location, sweep)
    study.append({} for _ in range(times + 1))
    worker = study.sign_on(WORKER)
    made: list[Timed] = []
    make = translate.sampler

    def timed(*args: Any) -> Any:
        made.append(Timed(make(*args)))
        return made[-1]

    def trial() -> None:
        claim = study.claim(worker)
        assert claim is not None
        study.complete(claim, [0.5], {})

    with patch.object(translate, "sampler", timed):
        trial()  # which reads the study once
        made.clear()
        begun = time.perf_counter()
        for _ in range(times):
            trial()
        whole_s = time.perf_counter() - begun
    sampler_s = sum(sampler.seconds for sampler in made)
    return {
        "trials": trials,
        "sampler_ms": round(1000 * sampler_s / times, 2),
        "rest_ms": round(1000 * (whole_s - sampler_s) / times, 2),
        "overhead": round(whole_s / sampler_s - 1, 4),
    }


def connections(location: Location) -> dict[str, int]:
    """Connections to the database while an objective runs, with one worker."""
    sql = "select count(*) from pg_stat_activity where datname = current_database()"
    sweep = make_sweep("connections", 4)
    prepare(location, sweep, "ours")
    study = store.open_(location, sweep)
    study.claim(study.sign_on(WORKER))
    study.rest()  # as the worker does a second after a trial's last word
    found = {"ours": execute(location, sql)[0][0] - 1}
    asked = optunas(location, "connections").ask()
    asked.suggest_float("p0", 0, 1)
    return {**found, "optuna": execute(location, sql)[0][0] - 1}


def limit(location: Location, seconds: int) -> dict[str, float]:
    """What pgbench reaches with 16 clients, and our share of it with 16 workers."""
    programs = postgresql_bin()
    assert programs is not None
    url = make_url(location.url).set(drivername="postgresql")
    # libpq reads the rest of it from the environment, the password too.
    env = {
        **os.environ,
        "PGHOST": "127.0.0.1",
        "PGPORT": str(url.port),
        "PGUSER": str(url.username),
    }
    env |= {"PGPASSWORD": str(url.password), "PGDATABASE": str(url.database)}
    bench = [str(programs / "pgbench")]
    subprocess.run([*bench, "-i", "-q", "-s", "16"], env=env, check=True, capture_output=True)
    load = ["-N", "-M", "prepared", "-c", "16", "-j", "2", "-T", str(seconds)]
    said = subprocess.run(
        [*bench, *load], env=env, check=True, capture_output=True, text=True
    ).stdout
    tps = float(re.findall(r"tps = ([\d.]+)", said)[-1])
    ours = rate(location, "ours", 16, float(seconds))
    return {
        "pgbench_tps": round(tps, 1),
        "trials_per_s": round(ours, 1),
        "share": round(2 * ours / tps, 3),
    }


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, on a server of our own."""
    crowds, times = ((100, 1_000), 40) if quick else ((0, 1_000, 10_000), 200)
    server = PostgreSQL()
    try:
        server.start()
        location = parse_url(server.create_database(), "the benchmark")
        return {
            "quick": quick,
            "claim_ms": {
                state: {str(n): claims(location, n, state, times) for n in crowds}
                for state in ("waiting", "running")
            },
            "tpe_5000": tpe(location, 500 if quick else 5_000, 10 if quick else 40),
            "connections": connections(parse_url(server.create_database(), "the benchmark")),
            "limit": limit(location, 2 if quick else 8),
        }
    finally:
        server.stop()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    print(json.dumps(measure(quick=parser.parse_args().quick), indent=2))


if __name__ == "__main__":
    main()
