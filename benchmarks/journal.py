"""Our journal file beside Optuna's, in one run: how long a dead holder is waited for, and the pace.

`python benchmarks/journal.py [--quick] [FOLDER]` measures in a folder of its own below FOLDER, so
that a shared disk can be measured too, and prints one JSON object. It takes about three minutes:
Optuna waits for 30 s. `--quick` leaves the waiting for Optuna and for a stopped holder out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from hpoctl import config
from hpoctl.plan import queue
from hpoctl.record import WorkerRecord
from hpoctl.study import store
from hpoctl.study.journal import JournalFile
from hpoctl.study.location import Kind, Location

_fork = multiprocessing.get_context("fork")
RECORD: dict[str, Any] = {
    "op_code": 2,
    "worker_id": "w",
    "study_id": 0,
    "user_attr": {"k": "x" * 150},
}
HOLDERS = {
    "ours": "from hpoctl.study.lock import FileLock as L; from pathlib import Path; "
    "held = L(Path(sys.argv[1])).held(); held.__enter__()",
    "optuna": "from optuna.storages.journal import JournalFileSymlinkLock as L; "
    "L(sys.argv[1]).acquire()",
}
BACKENDS: dict[str, Callable[[Path], JournalFile | JournalFileBackend]] = {
    "ours": JournalFile,
    "optuna": lambda path: JournalFileBackend(str(path)),
}


def wait_after(way: str, number: signal.Signals, path: Path) -> float:
    """Seconds until another process has written, after the holder of the lock got a signal."""
    path.touch()
    journal = BACKENDS[way](path)
    program = f"import sys, time; {HOLDERS[way]}; print(flush=True); time.sleep(600)"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.send_signal(number)
        begun = time.monotonic()
        journal.append_logs([RECORD])
        took = time.monotonic() - begun
        holder.kill()
    return took


def together(workers: int, seconds: float, prepare: Callable[[], Callable[[], bool]]) -> float:
    """How often a second so many processes did it, all in all, once each has prepared."""
    barrier, answers = _fork.Barrier(workers), _fork.Queue()

    def work() -> None:
        act, done = prepare(), 0
        barrier.wait(60)
        begun = time.monotonic()
        while time.monotonic() < begun + seconds and act():
            done += 1
        answers.put(done / (time.monotonic() - begun))

    processes = [_fork.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    rates: list[float] = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    return sum(rates)


def appends(way: str, workers: int, seconds: float, path: Path) -> float:
    """Records a second, each on disk."""
    path.touch()

    def prepare() -> Callable[[], bool]:
        journal = BACKENDS[way](path)
        return lambda: journal.append_logs([RECORD]) is None

    return together(workers, seconds, prepare)


def trials(workers: int, seconds: float, queued: int, path: Path) -> float:
    """Trials a second of three reports each, from a queue of so many."""
    tree = {
        "study": "s",
        "objective": "hpoctl.objectives.toy",
        "search_space": {"x": {"type": "uniform", "min": 0, "max": 1}},
        "sampler": "random",
        "budget": {"trials": queued},
    }
    sweep = config.parse(json.dumps(tree), "benchmark")
    location = Location(kind=Kind.JOURNAL, url=str(path))
    store.create(location, sweep, queue(sweep), owner="benchmark")

    def prepare() -> Callable[[], bool]:
        study = store.open_(location, sweep)
        worker = WorkerRecord(task="1_0", node="n", pid=1, gpus=0, started_at=1.0)

        def run() -> bool:
            claim = study.claim(worker)
            if claim is None:
                return False
            for step in range(3):
                study.report(claim, 1.0, step)
            study.complete(claim, [1.0], {})
            return True

        return run

    return together(workers, seconds, prepare)


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Everything, in files of our own."""
    workers, seconds, queued = ((1, 8), 1.0, 500) if quick else ((1, 8, 32), 5.0, 5_000)
    killed, stopped = signal.SIGKILL, signal.SIGSTOP
    waits = [("ours", killed)]
    if not quick:
        waits += [("optuna", killed), ("ours", stopped), ("optuna", stopped)]
    return {
        "quick": quick,
        "wait_s": {
            f"{way} {number.name}": round(wait_after(way, number, folder / f"{way}{number}"), 4)
            for way, number in waits
        },
        "appends_per_s": {
            way: {str(n): round(appends(way, n, seconds, folder / f"{way} {n}")) for n in workers}
            for way in BACKENDS
        },
        "trials_per_s": {
            str(n): round(trials(n, seconds, queued, folder / f"trials {n}"), 1) for n in workers
        },
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where to measure")
    parser.add_argument("--quick", action="store_true", help="about half a minute")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        print(json.dumps(measure(Path(folder), quick=given.quick), indent=2))


if __name__ == "__main__":
    main()
