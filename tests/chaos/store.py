"""Disturbs a study of real workers with hundreds of faults and holds what it says against what ran.

    python tests/chaos/store.py --storage postgresql --seed 1 --json

The same seed is the same faults: which, on which worker, after how long. Prints one JSON object;
exits with 1 if a worker died of anything but its SIGKILL, or the study is not exact. Needs the
servers' programs and, for a full disk, root.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from workplace import Workplace, open_workplace

from chaos.evidence import FOLDER, OBJECTIVE, Observer, account, executions
from chaos.faults import Fault, Kind, schedule
from chaos.fleet import Fleet
from chaos.stores import STORAGES, Place, opened
from hpoctl import spool
from hpoctl.record import TrialRecord, TrialState
from hpoctl.study import store
from hpoctl.study.store import Store

_SWEEP = """
search_space: {x: {type: uniform, min: -1, max: 1}, n: {type: int, min: 1, max: 9}}
objective_args: {seconds: 0.05, steps: 2}
lease: 2s
on: {lost: requeue}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run."""

    storage: str
    seed: int
    trials: int = 500
    faults: int = 200
    workers: int = 6
    sampler: str = "random"
    outage_s: float | None = None
    deadline_s: float = 900.0


@dataclass(slots=True, kw_only=True)
class Chaos:
    """One study, its workers, and what happens to them."""

    plan: Plan
    place: Place
    work: Workplace
    fleet: Fleet
    study: Store
    observer: Observer = field(default_factory=Observer)
    made: Counter[Kind] = field(default_factory=Counter)
    records: Sequence[TrialRecord] = ()
    repeated: set[int] = field(default_factory=set)
    end: float = 0.0

    def run(self) -> dict[str, object]:
        """All faults, then peace until every trial is complete; the account of it."""
        begun = time.monotonic()
        self.end = begun + self.plan.deadline_s
        wrong = []
        faults = schedule(
            self.place.kinds,
            seed=self.plan.seed,
            count=self.plan.faults,
            workers=self.plan.workers,
            outage_s=self.plan.outage_s,
        )
        for i, fault in enumerate(faults):
            self._await_turn(fault, i)
            self._make(fault)
        while not self._is_over():
            if time.monotonic() > self.end:
                wrong.append(f"not over after {self.plan.deadline_s:.0f} s: {self._states()}")
                break
            self._look()
            time.sleep(0.1)
        return self._account(wrong, time.monotonic() - begun)

    def _await_turn(self, fault: Fault, index: int) -> None:
        """After its delay, and not long before the trials have come as far as the faults."""
        due = time.monotonic() + fault.delay_s
        ahead = self.plan.trials * index // self.plan.faults - 2 * self.plan.workers
        while True:
            self._look()
            complete = self._states()[TrialState.COMPLETE]
            if time.monotonic() > self.end:
                return
            if time.monotonic() >= due and complete >= min(ahead, self.plan.trials):
                return
            time.sleep(0.02)

    def _make(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.KILL_WORKER:
                self.fleet.kill(fault.victim, same_task=fault.same_task)
            case Kind.KILL_CHILD:
                self._kill_child(fault)
            case Kind.STOP_SHORT | Kind.STOP_LONG:
                self.fleet.stop(fault.victim, fault.lasts_s)
            case _:
                self.place.disturb(fault)
        self.made[fault.kind] += 1

    def _kill_child(self, fault: Fault) -> None:
        while not self.fleet.kill_child(fault.victim) and not self._is_over():
            if time.monotonic() > self.end:
                return
            self._look()

    def _look(self) -> None:
        """What people and Slurm do meanwhile: start workers, repeat what was killed."""
        self.fleet.tend()
        self.records = self.study.records()
        self.observer.look(self.records)
        killed = {
            record.number
            for record in self.records
            if record.state is TrialState.FAILED
            and "was ended by SIGKILL" in str(record.attrs.get("error"))
        }
        if killed - self.repeated:
            self.study.retry(sorted(killed - self.repeated))
            self.repeated |= killed
            self.records = self.study.records()
        states = self._states()
        if states[TrialState.WAITING]:
            self.fleet.fill()
        elif states[TrialState.RUNNING] and not self.fleet.tasks:  # as `hpoctl workers add` does
            spool.deliver(self.work.run_dir, self.study)
            self.study.return_lost(lambda worker: True)

    def _states(self) -> Counter[TrialState]:
        return Counter(record.state for record in self.records)

    def _is_over(self) -> bool:
        states = self._states()
        running = states[TrialState.WAITING] + states[TrialState.RUNNING]
        failed = {r.number for r in self.records if r.state is TrialState.FAILED}
        return bool(self.records) and not running and failed <= self.repeated

    def _account(self, wrong: list[str], seconds: float) -> dict[str, object]:
        while self.fleet.tasks and time.monotonic() < self.end:
            self.fleet.tend()
            time.sleep(0.05)
        wrong += [f"worker {task} did not leave" for task in self.fleet.tasks]
        spool.deliver(self.work.run_dir, self.study)
        self.records = self.study.records()
        self.observer.look(self.records)
        ran = executions(self.work.folder)
        found = account(self.records, ran, self.plan.trials)
        if sum(self.made.values()) < self.plan.faults:
            wrong.append(f"only {sum(self.made.values())} faults were made")
        if found.lost or found.doubled or found.finished != self.plan.trials:
            wrong.append("not every trial has one result")
        wrong += [*self.fleet.complaints, *self.observer.violations, *found.violations]
        return {
            "storage": self.plan.storage,
            "seed": self.plan.seed,
            "trials": self.plan.trials,
            **{key: value for key, value in asdict(found).items() if key != "violations"},
            "executions": len(ran),
            "retries": len(self.repeated),
            "workers": self.fleet.started,
            "faults": {str(kind): count for kind, count in sorted(self.made.items())},
            "seconds": round(seconds, 1),
            "violations": wrong,
        }


def disturb(plan: Plan, folder: Path) -> dict[str, object]:
    """Runs a plan in a folder, whose `my run/logs` are what its workers said."""
    with opened(plan.storage) as place:
        text = f"{_SWEEP}sampler: {plan.sampler}\nbudget: {{trials: {plan.trials}}}\n"
        work = open_workplace(
            folder, OBJECTIVE, text + place.sweep_line, environ=dict(place.environ)
        )
        (folder / FOLDER).mkdir()
        fleet = Fleet(run_dir=work.run_dir.path, size=plan.workers, environ=place.environ)
        study = store.open_(place.location, work.sweep)
        try:
            return Chaos(plan=plan, place=place, work=work, fleet=fleet, study=study).run()
        finally:
            fleet.end()


def main() -> int:
    """The command line; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--storage", choices=STORAGES, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--sampler", choices=("random", "tpe"), default="random")
    parser.add_argument("--outage-s", type=float, help="seconds of each outage; else 0.5 to 2")
    parser.add_argument("--keep", type=Path, help="an empty folder for logs and results")
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    given = vars(parser.parse_args())
    keep, as_json = given.pop("keep"), given.pop("json")
    with tempfile.TemporaryDirectory() as temporary:
        said = disturb(Plan(**given), keep or Path(temporary, "chaos"))
    print(json.dumps(said, indent=None if as_json else 2))
    return 1 if said["violations"] else 0


if __name__ == "__main__":
    sys.exit(main())
