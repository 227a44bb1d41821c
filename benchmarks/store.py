"""Trials a second and round trips of a study in a database, ours beside Optuna's own, in one run.

`python benchmarks/store.py [--quick] [--json]` starts a PostgreSQL and a MariaDB of its own in
temporary folders, both writing to disk what they commit, and ends them. What it prints is one JSON
object. The objective is nothing: only the store is measured. `--quick` measures shorter, and
`hpoctl status` on fewer trials than 100,000; `status_trials` says on how many.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import optuna
from optuna.storages import RDBStorage
from proxy import CountingProxy
from servers import MariaDB, PostgreSQL

from hpoctl import config
from hpoctl.plan import queue
from hpoctl.record import WorkerRecord
from hpoctl.rundir import Run, RunDir
from hpoctl.study import store
from hpoctl.study.connect import connect, engine_url
from hpoctl.study.location import Location, parse_url
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Mode

_fork = multiprocessing.get_context("fork")
REPORTS = 20


def make_text(study: str, trials: int, **changes: object) -> str:
    """A random sweep of five parameters."""
    space = {f"p{i}": {"type": "uniform", "min": 0, "max": 1} for i in range(5)}
    tree = {
        "study": study,
        "objective": "hpoctl.objectives.toy",
        "search_space": space,
        "sampler": "random",
        "budget": {"trials": trials},
        **changes,
    }
    return json.dumps(tree)


def make_sweep(study: str, trials: int, **changes: object) -> Sweep:
    """The same, read."""
    return config.parse(make_text(study, trials, **changes), "benchmark")


def ours(location: Location, sweep: Sweep, task: str) -> Callable[[int], bool]:
    """One trial as the worker runs it, as often as it is called; False where none waits."""
    study = store.open_(location, sweep)
    worker = study.sign_on(WorkerRecord(task=task, node="n", pid=1, gpus=0, started_at=1.0))

    def trial(reports: int) -> bool:
        study.check_in(worker)
        claim = study.claim(worker)
        if claim is None:
            return False
        for step in range(reports):
            study.report(claim, 1.0 / (step + 1), step + 1)
        study.complete(claim, [0.5], {})
        return True

    return trial


def optunas(location: Location, sweep: Sweep, task: str) -> Callable[[int], bool]:
    """One trial by ask, suggest and tell."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = RDBStorage(
        engine_url(location), skip_compatibility_check=True, skip_table_creation=True
    )
    study = optuna.load_study(
        study_name=sweep.study,
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),
        pruner=optuna.pruners.MedianPruner(),
    )

    def trial(reports: int) -> bool:
        asked = study.ask()
        for i in range(5):
            asked.suggest_float(f"p{i}", 0, 1)
        for step in range(reports):
            asked.report(1.0 / (step + 1), step + 1)
            asked.should_prune()
        study.tell(asked, 0.5)
        return True

    return trial


WAYS = {"ours": ours, "optuna": optunas}


def prepare(location: Location, sweep: Sweep, way: str) -> None:
    """The study, with its queue if it is ours."""
    store.create(location, sweep, queue(sweep) if way == "ours" else (), owner="benchmark")


def rate(location: Location, way: str, workers: int, seconds: float) -> float:
    """Trials a second of so many processes together."""
    sweep = make_sweep(f"rate {way} {workers}", int(seconds * 2500) + 1000)
    prepare(location, sweep, way)
    barrier, answers = _fork.Barrier(workers), _fork.Queue()

    def work(task: str) -> None:
        run = WAYS[way](location, sweep, task)
        barrier.wait(60)
        begun, done = time.monotonic(), 0
        while time.monotonic() < begun + seconds and run(0):
            done += 1
        answers.put((done, time.monotonic() - begun))

    processes = [_fork.Process(target=work, args=(f"7_{i}",)) for i in range(workers)]
    for process in processes:
        process.start()
    counts = [answers.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join(30)
    return sum(done for done, _ in counts) / max(took for _, took in counts)


def round_trips(location: Location, way: str, reports: int, **changes: object) -> float:
    """Requests on the wire a trial, once a worker has started; counted by a proxy."""
    trials = 10
    sweep = make_sweep(f"trips {way} {reports} {changes}", trials + 2, **changes)
    prepare(location, sweep, way)
    with CountingProxy(location) as proxy:
        run = WAYS[way](proxy.location, sweep, "7_1")
        run(reports)
        run(reports)
        before = proxy.requests
        for _ in range(trials):
            run(reports)
        return (proxy.requests - before) / trials


def enqueue(location: Location) -> float:
    """Seconds to queue the 10,000 points of a grid, with the study and its tables there."""
    space = {f"p{i}": {"type": "int", "min": 1, "max": 10} for i in range(4)}
    sweep = make_sweep("grid", 1, sampler="grid", search_space=space, budget={})
    study = store.create(location, sweep, (), owner="benchmark")
    begun = time.monotonic()
    study.append(queue(sweep))
    return time.monotonic() - begun


def fill(location: Location, study: str, trials: int) -> None:
    """Ends all waiting trials of a study at once, each with a value."""
    connection: Any = connect(location, writing=True)
    cursor = connection.cursor()
    ids = "(select study_id from studies where study_name = %s)"
    cursor.execute(
        "insert into trial_values (trial_id, objective, value, value_type)"
        f" select trial_id, 0, number * 1.5, 'FINITE' from trials where study_id = {ids}",
        [study],
    )
    cursor.execute(
        "update trials set state = 'COMPLETE', datetime_start = now(), datetime_complete = now()"
        f" where study_id = {ids}",
        [study],
    )
    cursor.execute("analyze")
    connection.close()


def measured(argv: list[str], folder: str, url: str) -> tuple[float, float]:
    """Seconds and MiB at most of a whole process, the best of three."""
    env = {"PATH": str(Path(sys.executable).parent), "HOME": folder, "HPOCTL_STORAGE": url}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    timer = (
        "import json, resource, subprocess, sys, time; begun = time.monotonic();"
        " done = subprocess.run(sys.argv[1:], capture_output=True, text=True);"
        " usage = resource.getrusage(resource.RUSAGE_CHILDREN);"
        " print(json.dumps([time.monotonic() - begun, usage.ru_maxrss / 1024, done.returncode,"
        " done.stderr]))"
    )
    found = []
    for _ in range(3 if argv[0] == sys.executable else 1):
        text = subprocess.check_output([sys.executable, "-c", timer, *argv], env=env, cwd=folder)
        seconds, mib, code, error = json.loads(text)
        assert code == 0, error
        found.append((seconds, mib))
    return min(found)


def status(location: Location, trials: int) -> dict[str, float]:
    """`hpoctl status` and Optuna's `best-trial` on one study: seconds and MiB, whole processes."""
    text = make_text("status", trials, storage={"url_env": "HPOCTL_STORAGE"}, backend="local")
    sweep = config.parse(text, "benchmark")
    prepare(location, sweep, "ours")
    fill(location, "status", trials)
    url = location.url.replace("+psycopg2", "")
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            study="status",
            mode=Mode.ASYNC,
            backend=BackendName.LOCAL,
            trials=trials,
            arrays=(),
            overrides=(),
            workdir=Path(folder),
            created_at=time.time(),
            gist=sweep.gist,
        )
        run_dir = RunDir(Path(folder, "run"))
        run_dir.create(text, run)
        argv = [sys.executable, "-m", "hpoctl", "status", str(run_dir.path)]
        seconds, mib = measured(argv, folder, url)
        best = ["optuna", "best-trial", "--study-name", "status", "--storage", location.url]
        slow, _ = measured(best, folder, url)
    return {"ours_s": seconds, "ours_mib": mib, "optuna_s": slow}


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, on servers of our own."""
    seconds, workers = (0.5, (2, 16)) if quick else (4.0, (1, 2, 4, 8, 16, 32))
    trials = 2_000 if quick else 100_000
    found: dict[str, Any] = {"quick": quick, "by_workers": {}, "claims": {}, "enqueue_10000_s": {}}
    servers = {"postgresql": PostgreSQL(), "mariadb": MariaDB(durable=True)}
    try:
        for name, server in servers.items():
            server.start()
            location = parse_url(server.create_database(), "the benchmark")
            rates = {
                way: {str(n): round(rate(location, way, n, seconds), 1) for n in workers}
                for way in WAYS
            }
            found["by_workers"][name] = rates
            found["claims"][name] = {way: rates[way]["16"] for way in WAYS}
            found["enqueue_10000_s"][name] = round(enqueue(location), 3)
            if name == "postgresql":
                found["round_trips"] = trips(location)
                own = parse_url(server.create_database(), "the benchmark")
                found["status_100k"] = {k: round(v, 3) for k, v in status(own, trials).items()}
                found["status_trials"] = trials
            else:
                found["round_trips_mariadb"] = trips(location)
    finally:
        for server in servers.values():
            server.stop()
    return found


def trips(location: Location) -> dict[str, dict[str, float]]:
    """Round trips a trial without reports, with 20, and with 20 under ASHA and TPE."""
    median = {"pruner": {"name": "median", "n_startup_trials": 1000}}
    found = {
        "plain": {way: round_trips(location, way, 0) for way in WAYS},
        "reports20": {way: round_trips(location, way, REPORTS, **median) for way in WAYS},
    }
    asha = {"sampler": "tpe", "pruner": {"name": "asha"}}
    found["reports20_tpe_asha"] = {"ours": round_trips(location, "ours", REPORTS, **asha)}
    found["tpe"] = {"ours": round_trips(location, "ours", 0, sampler="tpe")}
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute")
    parser.add_argument("--json", action="store_true", help="on one line")
    given = parser.parse_args()
    print(json.dumps(measure(quick=given.quick), indent=None if given.json else 2))


if __name__ == "__main__":
    main()
