"""`hpoctl status` as a whole process: seconds and MiB by trials, parameters and storage.

`python benchmarks/status.py [--quick] [--json]` starts a PostgreSQL and a MariaDB of its own, fills
studies of 100 to 100,000 finished trials with 10 and with 30 parameters there, in SQLite and in
journals, and times `hpoctl status RUNDIR` on them, and `optuna best-trial` up to 10,000 trials. It
prints one JSON object; `floor_s` and `floor_mib` are what Python alone takes to start. Seconds are
the best of three, of Optuna the only ones. `--quick` stops at 10,000 trials.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from servers import MariaDB, PostgreSQL
from store import measured

from hpoctl import config
from hpoctl.plan import queue
from hpoctl.rundir import Run, RunDir
from hpoctl.study import store
from hpoctl.study.connect import connect, engine_url
from hpoctl.study.location import Kind, Location, parse_url
from hpoctl.sweep import Sweep
from hpoctl.words import BackendName, Mode

KEYS = {Kind.SQLITE: "sqlite", Kind.JOURNAL: "journal"}


def make_text(location: Location, trials: int, parameters: int) -> str:
    """A random sweep."""
    space = {f"p{i}": {"type": "uniform", "min": 0, "max": 1} for i in range(parameters)}
    tree = {
        "study": f"{trials} trials of {parameters}",
        "objective": "hpoctl.objectives.toy",
        "search_space": space,
        "sampler": "random",
        "budget": {"trials": trials},
        "backend": "local",
        "storage": {KEYS[location.kind]: location.url}
        if location.kind in KEYS
        else {"url_env": "HPOCTL_STORAGE"},
    }
    return json.dumps(tree)


def finish(location: Location, sweep: Sweep) -> None:
    """The study with every trial ended, each with a value."""
    if location.kind is Kind.JOURNAL:
        finish_journal(location, sweep)
        return
    store.create(location, sweep, queue(sweep), owner="benchmark")
    connection: Any = connect(location, writing=True)
    mark = "?" if location.kind is Kind.SQLITE else "%s"
    cursor = connection.cursor()
    ids = f"(select study_id from studies where study_name = {mark})"
    cursor.execute(
        "insert into trial_values (trial_id, objective, value, value_type)"
        " select trial_id, 0, abs(number - 4711), 'FINITE' from trials"
        f" where study_id = {ids}",
        [sweep.study],
    )
    now = "current_timestamp"
    cursor.execute(
        f"update trials set state = 'COMPLETE', datetime_start = {now}, datetime_complete = {now}"
        f" where study_id = {ids}",
        [sweep.study],
    )
    for table in ("trials", "trial_values", "trial_params"):
        word = "analyze table" if location.kind is Kind.MYSQL else "analyze"
        cursor.execute(f"{word} {table}")
    connection.close()


def finish_journal(location: Location, sweep: Sweep) -> None:
    """The lines that Optuna's journal would have, without its lock for each of them."""
    store.create(location, sweep, (), owner="benchmark")
    distribution = json.dumps(
        {"name": "FloatDistribution", "attributes": {"step": None, "low": 0.0, "high": 1.0,
                                                     "log": False}}
    )  # fmt: skip
    when = "2026-01-01T00:00:00.000000"
    with location.path.open("a", encoding="utf-8") as lines:
        for number, point in enumerate(queue(sweep)):
            trial = {
                "op_code": 4, "worker_id": "w", "study_id": 0, "datetime_start": None, "state": 4,
                "value": None, "values": None,
                "distributions": dict.fromkeys(point, distribution), "params": dict(point),
                "user_attrs": {}, "system_attrs": {}, "intermediate_values": {},
            }  # fmt: skip
            begun = {
                "op_code": 6, "worker_id": "w", "trial_id": number, "state": 0, "values": None,
                "datetime_start": when,
            }  # fmt: skip
            ended = {
                **begun, "state": 1, "values": [float(abs(number - 4711))],
                "datetime_complete": when,
            }  # fmt: skip
            for line in (trial, begun, ended):
                lines.write(json.dumps(line, separators=(",", ":")) + "\n")


def ask(location: Location, trials: int, parameters: int, *, optunas: bool) -> dict[str, float]:
    """Seconds and MiB of `hpoctl status`, and of `optuna best-trial` where it is asked."""
    text = make_text(location, trials, parameters)
    sweep = config.parse(text, "benchmark")
    finish(location, sweep)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(
            study=sweep.study,
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
        url = location.url.replace("+psycopg2", "").replace("+pymysql", "")
        ours = [sys.executable, "-m", "hpoctl", "status", str(run_dir.path)]
        seconds, mib = measured(ours, folder, url)
        found = {"ours_s": seconds, "ours_mib": mib}
        if optunas:
            storage = location.url if location.kind is Kind.JOURNAL else engine_url(location)
            theirs = ["best-trial", "--study-name", sweep.study, "--storage", storage]
            found["optuna_s"], found["optuna_mib"] = measured(["optuna", *theirs], folder, url)
    return {name: round(value, 3) for name, value in found.items()}


def sizes(*, quick: bool) -> list[int]:
    """How many trials."""
    return [100, 1_000, 10_000] if quick else [100, 1_000, 10_000, 100_000]


def places(folder: Path) -> Iterator[tuple[str, Location]]:
    """Each storage, empty."""
    for name, server in {"postgresql": PostgreSQL(), "mariadb": MariaDB(durable=True)}.items():
        try:
            server.start()
            yield name, parse_url(server.create_database(), "the benchmark")
        finally:
            server.stop()
    yield "sqlite", Location(kind=Kind.SQLITE, url=str(folder / "study.db"))
    yield "journal", Location(kind=Kind.JOURNAL, url=str(folder / "study.journal"))


def measure(*, quick: bool) -> dict[str, Any]:
    """Everything, on servers of our own."""
    seconds, mib = measured([sys.executable, "-c", "pass"], "/", "")
    found: dict[str, Any] = {
        "quick": quick, "floor_s": round(seconds, 3), "floor_mib": round(mib, 1), "status": {},
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name, location in places(Path(folder)):
            for parameters in (10, 30):
                for trials in sizes(quick=quick):
                    place = location
                    if location.kind is Kind.JOURNAL:  # one study a file, as hpoctl makes them
                        url = f"{location.url}.{trials}.{parameters}"
                        place = Location(kind=Kind.JOURNAL, url=url)
                    asked = ask(place, trials, parameters, optunas=trials <= 10_000)
                    found["status"].setdefault(name, {})[f"{trials}x{parameters}"] = asked
                    print(name, trials, parameters, asked, file=sys.stderr)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="up to 10,000 trials")
    parser.add_argument("--json", action="store_true", help="on one line")
    given = parser.parse_args()
    print(json.dumps(measure(quick=given.quick), indent=None if given.json else 2))


if __name__ == "__main__":
    main()
