"""One chaos run: a study, the faults on this thread, a user on another, and what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from chaos import ledger, slurm_faults, verdict
from chaos.slurm_faults import Planned, Strike
from chaos.stage import STUDY, Stage, within
from chaos.user import User


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How large, how long, how hard."""

    seed: int
    trials: int = 200
    faults: int = 60
    workers: int = 8
    nodes: int = 5
    seconds: tuple[float, float] = (1.0, 5.0)
    pace_s: float = 1.1
    deadline_s: float = 330.0


@dataclass(slots=True, kw_only=True)
class Event:
    """One fault in the timeline."""

    planned: Planned
    at_s: float
    strike: Strike
    trials: list[int]
    struck_at: float = field(default_factory=time.monotonic)
    seen: str | None = None
    seen_s: float | None = None
    looks: int = 0

    @property
    def open(self) -> bool:
        """Whether its effect may still be seen; a fault in between may have taken all the time."""
        waited_s = time.monotonic() - self.struck_at
        return self.seen is None and (waited_s < self.strike.within_s or self.looks < 5)

    def look(self) -> None:
        self.looks += 1
        if (seen := self.strike.seen()) is not None:
            self.seen = seen
            self.seen_s = time.monotonic() - self.struck_at


# A trial's death is weather here, as often as it dies. What hpoctl does not know is left out.
WEATHER = {
    "max_losses": 1000,
    "on": dict.fromkeys(
        ("host_oom", "timeout", "preempted", "requeued", "cancelled", "node_fail", "lost", "error"),
        "requeue",
    ),
}


def write_sweep(stage: Stage, plan: Plan) -> None:
    """The sweep file: JSON is YAML too."""
    tree = {
        "study": STUDY,
        "objective": "chaos.sleeper",
        "objective_args": {"seconds": plan.seconds, "log": str(stage.executions_file)},
        "search_space": {"lr": {"type": "log_uniform", "min": 1e-5, "max": 1e-1}},
        "sampler": "random",
        "mode": "async",
        "workers": plan.workers,
        "budget": {"trials": plan.trials},
        # Two workers fill a node. Slurm knows walltimes of whole minutes.
        "resources": {"time": "2m", "cpus": 8, "gpus": 1},
        "storage": {"url_env": "HPOCTL_STORAGE"},
        "lease": "8s",
        "seed": plan.seed,
    }
    file = stage.folder / "sweep.yaml"
    file.write_text(json.dumps(tree, indent=1))
    for key, value in WEATHER.items():
        if stage.hpoctl("check", "sweep.yaml", "--set", f"{key}={value}").code == 0:
            tree[key] = value
    file.write_text(json.dumps(tree, indent=1))


@dataclass(slots=True, kw_only=True)
class Chaos:
    """One run: the faults on this thread, the user on another."""

    stage: Stage
    plan: Plan
    user: User
    begun: float = field(default_factory=time.monotonic)
    events: list[Event] = field(default_factory=list)
    later: list[tuple[float, Strike]] = field(default_factory=list)
    missed: Counter[str] = field(default_factory=Counter)
    phantoms: list[str] = field(default_factory=list)
    study_s: float = 0.0

    @property
    def now_s(self) -> float:
        return time.monotonic() - self.begun

    @property
    def effective(self) -> int:
        return sum(event.seen is not None for event in self.events)

    @property
    def over(self) -> bool:
        return self.user.ended.is_set() or self.now_s > self.plan.deadline_s

    def run(self) -> None:
        """Faults until there were enough, then the rest of the study in peace."""
        self.user.start()
        within(30, lambda: bool(self.stage.workers()))
        start_s = self.now_s
        for planned in slurm_faults.schedule(self.plan.seed, self.plan.pace_s):
            # One that took long delays those after it, so that they do not come all at once.
            start_s = max(start_s, self.now_s + self.plan.pace_s / 2 - planned.at_s)
            self._tend_until(start_s + planned.at_s)
            while not self.over and self.effective < self.plan.faults <= self._hoped():
                self._tend()
            if self.over or self.effective >= self.plan.faults:
                break
            self._strike(planned)
        while not self.over and (self.later or any(event.open for event in self.events)):
            self._tend()
        within(max(0.0, self.plan.deadline_s - self.now_s), self.user.ended.is_set)
        self.study_s = self.now_s

    def _hoped(self) -> int:
        """How many faults had an effect, or may still be seen to."""
        return self.effective + sum(event.open for event in self.events)

    def _tend_until(self, at_s: float) -> None:
        self._tend()
        while self.now_s < at_s and not self.over:
            self._tend()

    def _tend(self) -> None:
        """Does what was put off, and looks for the effects."""
        for due_s, strike in tuple(self.later):
            if self.now_s >= due_s and strike.then is not None:
                strike.then()
                self.later.remove((due_s, strike))
        for event in self.events:
            if event.open:
                event.look()
        time.sleep(0.2)

    def _strike(self, planned: Planned) -> None:
        at_s = self.now_s
        running = self._trials_by_task()
        strike = slurm_faults.strike(self.stage, planned)
        if strike is None:
            self.missed[planned.kind] += 1
            return
        trials = [running[task] for task in strike.tasks if task in running]
        self.events.append(Event(planned=planned, at_s=at_s, strike=strike, trials=trials))
        if strike.then is not None:
            self.later.append((self.now_s + strike.after_s, strike))

    def _trials_by_task(self) -> dict[str, int]:
        """Who works on what."""
        rows = self.stage.rows(
            "select a.task, t.number from hpoctl_attempts a join trials t"
            " on t.trial_id = a.trial_id where a.outcome is null"
        )
        return {str(task): int(str(number)) for task, number in rows}

    def settle(self) -> None:
        """Lets every stopped worker go on, and waits until Slurm has no task left.

        A controller that was killed may have forgotten the end of a task, which runs on in its eyes
        until it asks the node, minutes later. Such a phantom is cancelled here.
        """
        for _, strike in self.later:
            if strike.then is not None:
                strike.then()
        self.user.over.set()
        self.user.join(70)
        self.stage.await_health()
        within(40, lambda: not self._busy() or not self.stage.workers())
        within(8, lambda: not self._busy())
        self.phantoms = self._busy()
        for task in self.phantoms:
            self.stage.run("scancel", task)
        within(20, lambda: not self._busy())

    def allocated(self) -> float:
        """The GPU-hours that a user is told."""
        answer = self.stage.hpoctl("status", STUDY, "--json", *self.user.repair)
        hours = json.loads(answer.out)["gpu_hours"]["allocated"] if answer.code == 0 else -1.0
        return float(hours)

    def _busy(self) -> list[str]:
        return [task.name for task in self.stage.tasks() or () if task.state in _BUSY]

    def timeline(self, trials: Sequence[verdict.Trial]) -> list[dict[str, object]]:
        """Every fault: when, on whom, what was seen, and what became of the trials it hit."""
        return [
            {
                "at_s": round(event.at_s, 1),
                "planned_s": round(event.planned.at_s, 1),
                "kind": event.planned.kind,
                "victim": event.strike.victim,
                "tasks": event.strike.tasks,
                "seen": event.seen or "no effect",
                "seen_s": event.seen_s and round(event.seen_s, 1),
                "trials": {number: trials[number].fate for number in event.trials},
            }
            for event in self.events
        ]


_BUSY = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED")


def run(stage: Stage, plan: Plan) -> dict[str, object]:
    """The whole run on a stage that is open: what `--json` prints."""
    begun = time.monotonic()
    write_sweep(stage, plan)
    submitted = stage.hpoctl("submit", "sweep.yaml")
    assert submitted.code == 0, submitted.err
    user = User(stage=stage, workers=plan.workers, trials=plan.trials)
    chaos = Chaos(stage=stage, plan=plan, user=user)
    chaos.run()
    chaos.settle()
    return {**_judge(chaos), "seconds": round(time.monotonic() - begun, 1)}


def _judge(chaos: Chaos) -> dict[str, object]:
    stage, plan = chaos.stage, chaos.plan
    told = ledger.listen(stage, chaos.allocated)
    lives, forgotten = told.lives, ledger.forgotten(told.workers, told.lives)
    hours = ledger.Ledger(
        hpoctl=told.status, sacct=ledger.hours(lives), forgotten=ledger.hours(forgotten)
    )
    trials = verdict.read_trials(stage)
    executions = verdict.read_executions(stage.executions_file)
    sums = verdict.study_sums(trials, executions)
    wrong = [
        *verdict.violations(sums, hours, plan.trials),
        *verdict.unexplained(trials, executions),
        *verdict.strangers(stage, lives),
        *chaos.user.complaints,
    ]
    if not chaos.user.ended.is_set():
        wrong.append(f"the study has not ended within {plan.deadline_s:.0f} s")
    if chaos.effective < plan.faults:
        wrong.append(f"{chaos.effective} of {plan.faults} faults had an effect")
    if forgotten and not any("slurmctld" in event.planned.kind for event in chaos.events):
        wrong.append(f"accounting does not know {[life.task for life in forgotten]}")
    by_kind = Counter(event.planned.kind for event in chaos.events if event.seen is not None)
    return {
        "seed": plan.seed,
        **sums,
        "faults": {"all": chaos.effective, **dict(sorted(by_kind.items()))},
        "no_victim": dict(chaos.missed),
        "ledger_error": round(hours.error, 4),
        "gpu_hours": {name: round(value, 4) for name, value in asdict(hours).items()},
        "study_s": round(chaos.study_s, 1),
        "phantoms": chaos.phantoms,
        "forgotten": [life.task for life in forgotten],
        "lives": dict(Counter(life.state.split()[0] for life in lives)),
        "attached": chaos.user.attached,
        "refused": dict(Counter(chaos.user.refused)),
        "violations": wrong,
        "both_sides": told.tables(),
        "timeline": chaos.timeline(trials),
    }
