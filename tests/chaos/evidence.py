"""What really ran, as the trials themselves wrote it down, held against what the study says."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpoctl.record import TrialRecord, TrialState

FOLDER = "executions"
# Sleeps for 50 to 150 ms, and leaves a file of its own for every execution that came to its end.
OBJECTIVE = """
import json
import os
import time
from pathlib import Path

from hpoctl.objectives import toy


def objective(trial):
    time.sleep(trial.seed % 100 / 1000)
    value = toy.objective(trial)
    ran = int.from_bytes(os.urandom(6), "big")
    line = {"number": trial.number, "params": trial.params, "value": value, "ran": ran}
    Path("executions", f"{trial.number:05d}-{ran}.json").write_text(json.dumps(line))
    return {"value": value, "ran": float(ran)}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A trial that was computed to its end; `ran` names this execution among all."""

    number: int
    params: dict[str, object]
    value: float
    ran: int


@dataclass(slots=True)
class Observer:
    """Watches a study's trials while they run: what has ended must never change again."""

    ended: dict[int, object] = field(default_factory=dict)
    attempts: Counter[int] = field(default_factory=Counter)
    params: dict[int, dict[str, object]] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    def look(self, records: Sequence[TrialRecord]) -> None:
        """One look at all trials."""
        for record in records:
            attempt = int(str(record.attrs.get("attempt", 0)))
            if attempt < self.attempts[record.number]:
                self._say(record, f"attempt {self.attempts[record.number]} became {attempt}")
            self.attempts[record.number] = attempt
            if record.state in (TrialState.WAITING, TrialState.RUNNING):
                if record.number in self.ended:
                    self._say(record, f"had ended, and is {record.state}")
                continue
            end = (record.state, record.values, dict(record.params), record.attrs.get("ran"))
            if self.ended.setdefault(record.number, end) != end:
                self._say(record, f"ended as {self.ended[record.number]}, then as {end}")

    def _say(self, record: TrialRecord, words: str) -> None:
        self.violations.append(f"trial {record.number}: {words}")


def executions(folder: Path) -> list[Execution]:
    """Everything that was computed to its end; a file that was torn by a kill does not count."""
    found = []
    for path in sorted((folder / FOLDER).glob("*.json")):
        try:
            found.append(Execution(**json.loads(path.read_text())))
        except ValueError:
            continue
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The sums, and what is wrong with them."""

    finished: int
    distinct: int
    lost: int
    doubled: int
    late: int
    violations: list[str]


def account(records: Sequence[TrialRecord], ran: Sequence[Execution], budget: int) -> Account:
    """Holds the study against the executions: each trial of the budget has one true result."""
    wrong = []
    numbers = [record.number for record in records]
    if numbers != list(range(len(records))):
        wrong.append(f"the trials' numbers are {numbers}")
    roots: dict[int, list[TrialRecord]] = defaultdict(list)
    for record in records:
        roots[int(str(record.attrs.get("retry_of", record.number)))].append(record)
    if len(roots) != budget:
        wrong.append(f"{len(roots)} trials besides retries, and the budget is {budget}")
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    wins = Counter(int(str(record.attrs.get("retry_of", record.number))) for record in complete)
    by_id = {execution.ran: execution for execution in ran}
    for record in complete:
        wrong += _check_result(record, by_id)
    for root, repeats in roots.items():
        if len({str(sorted(record.params.items())) for record in repeats if record.params}) > 1:
            wrong.append(f"trial {root} was repeated with other parameters")
    accepted = {record.attrs.get("ran") for record in complete}
    return Account(
        finished=len(complete),
        distinct=len(accepted),
        lost=budget - len(wins),
        doubled=sum(count > 1 for count in wins.values()) + len(complete) - len(accepted),
        late=len(ran) - len(accepted),
        violations=wrong,
    )


def _check_result(record: TrialRecord, by_id: dict[int, Execution]) -> list[str]:
    """What is wrong with one trial's result."""
    found = by_id.get(int(float(str(record.attrs.get("ran", -1)))))
    if found is None or found.number != record.number:
        return [f"trial {record.number}: nobody computed its result {record.attrs.get('ran')}"]
    if record.values != (found.value,):
        return [f"trial {record.number}: has {record.values}, computed was {found.value}"]
    if dict(record.params) != found.params:
        return [f"trial {record.number}: has {record.params}, computed was {found.params}"]
    return []
