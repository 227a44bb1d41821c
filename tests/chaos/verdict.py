"""What came of a chaos run: sums and violations, from what the stage's own witnesses say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.ledger import LIMIT, Ledger, Life
from chaos.stage import Stage

_KILLED = "was ended by SIG"
_LOST = "its worker was gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A trial as the database holds it; `ran` names the execution whose result was taken."""

    number: int
    state: str
    ran: float | None
    error: str
    fate: str

    @property
    def lost_for_good(self) -> bool:
        return self.state == "FAIL" and _LOST in self.error

    @property
    def killed(self) -> bool:
        return self.state == "FAIL" and _KILLED in self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A trial that the objective ran to its end, as it wrote down itself."""

    trial: int
    ran: float
    begun: float
    ended: float


def read_trials(stage: Stage) -> list[Trial]:
    """Every trial, with the story of its attempts."""
    attempts: dict[object, list[str]] = {}
    for trial_id, task, life, outcome in stage.rows(
        "select trial_id, task, life, outcome from hpoctl_attempts order by trial_id, attempt"
    ):
        words = f"{outcome or 'open'} on {task}{f' life {life}' if life != 1 else ''}"
        attempts.setdefault(trial_id, []).append(words)
    attrs: dict[tuple[object, object], object] = {
        (trial_id, key): json.loads(str(value))
        for trial_id, key, value in stage.rows(
            "select trial_id, key, value_json from trial_user_attributes"
        )
    }
    return [
        Trial(
            number=int(str(number)),
            state=str(state),
            ran=None if (ran := attrs.get((id_, "ran"))) is None else float(str(ran)),
            error=str(attrs.get((id_, "error"), "")).strip(),
            fate=", ".join(attempts.get(id_, [])),
        )
        for id_, number, state in stage.rows(
            "select trial_id, number, state::text from trials order by number"
        )
    ]


def read_executions(file: Path) -> list[Execution]:
    """What the objective wrote down."""
    if not file.exists():
        return []
    return [Execution(**json.loads(line)) for line in file.read_text().splitlines()]


def study_sums(trials: Sequence[Trial], executions: Sequence[Execution]) -> dict[str, object]:
    """The counts of trials that a proof needs.

    `doubled` are trials whose result was taken more than once, or that began again after theirs was
    taken. `repeated` are those that ran to their end more than once, and had one result taken: a
    worker that is killed between a trial's end and its result cannot prevent that.
    """
    complete = [trial for trial in trials if trial.state == "COMPLETE"]
    ends = {execution.ran: execution for execution in executions}
    taken = [ends[trial.ran] for trial in complete if trial.ran in ends]
    by_trial = {execution.trial: execution for execution in taken}
    again = {
        execution.trial
        for execution in executions
        if execution.trial in by_trial and execution.begun > by_trial[execution.trial].ended + 1
    }
    more = {trial.number for trial in complete if trial.fate.count("complete on") > 1}
    ran = Counter(execution.trial for execution in executions)
    failed = [trial for trial in trials if trial.state == "FAIL"]
    return {
        "finished": len(complete),
        "distinct": len({execution.ran for execution in taken}),
        "lost": sum(trial.state in ("WAITING", "RUNNING") for trial in trials),
        "doubled": len(again | more),
        "repeated": sum(count > 1 for count in ran.values()),
        "failed_by_loss": sum(trial.lost_for_good for trial in failed),
        "failed_by_kill": sum(trial.killed for trial in failed),
        "failed_otherwise": [
            f"trial {trial.number}: {trial.error.splitlines()[-1:]}"
            for trial in failed
            if not trial.lost_for_good and not trial.killed
        ],
    }


def unexplained(trials: Sequence[Trial], executions: Sequence[Execution]) -> list[str]:
    """Results of the study that no execution has."""
    ends = {execution.ran: execution.trial for execution in executions}
    return [
        f"trial {trial.number}: nobody ran {trial.ran}, which the study has as its result"
        for trial in trials
        if trial.state == "COMPLETE" and ends.get(trial.ran or -1) != trial.number
    ]


def strangers(stage: Stage, lives: Sequence[Life]) -> list[str]:
    """Arrays of the study that run in Slurm and do not stand in its ledger of submissions."""
    if not stage.submissions_file.exists():
        return []
    lines = stage.submissions_file.read_text().splitlines()
    known = {str(json.loads(line)["id"]) for line in lines}
    found = {life.task.partition("_")[0] for life in lives}
    return [f"array {job} is not in submissions.jsonl" for job in sorted(found - known)]


def violations(sums: dict[str, object], ledger: Ledger, trials: int) -> list[str]:
    """What must not be, of the sums."""
    wrong = []
    if sums["finished"] != trials:
        wrong.append(f"{sums['finished']} of {trials} trials finished")
    if sums["distinct"] != sums["finished"]:
        wrong.append(f"{sums['distinct']} distinct results of {sums['finished']} finished trials")
    for name in ("lost", "doubled", "failed_by_loss", "failed_by_kill", "failed_otherwise"):
        if sums[name]:
            wrong.append(f"{name}: {sums[name]}")
    if ledger.error > LIMIT:
        wrong.append(
            f"the ledger says {ledger.hpoctl:.4f} GPU-hours, sacct {ledger.sacct:.4f} and forgets"
            f" {ledger.forgotten:.4f}: {ledger.error:.1%} apart"
        )
    return wrong
