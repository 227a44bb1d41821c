"""Replays Optuna's journal, one JSON object a line, without Optuna: see optuna.storages.journal.

The file of a large study is hundreds of MiB, so it is read line by line, and of most lines only as
much as tells that they are not needed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_FINISHED = ("COMPLETE", "PRUNED", "FAIL")
_OPERATIONS = {b'{"op_code":%d,' % code: code for code in range(10)}
_HEAD = 13  # bytes of each of these
# The heads of the lines that there are most of, as Optuna writes them; others are read as JSON.
_MADE = re.compile(
    rb'\{"op_code":4,"worker_id":"[^"\\]*","study_id":(\d+),'
    rb'"datetime_start":(?:null|"[^"]*")(?:,"state":(\d))?[,}]'
)
_SET = re.compile(
    rb'\{"op_code":6,"worker_id":"[^"\\]*","trial_id":(\d+),"state":(\d),'
    rb'"values":(?:null|(\[[^][]*\]))[,}]'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """A trial; each parameter with its stored number and its distribution's JSON."""

    number: int
    value: float
    params: Sequence[tuple[str, float, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a journal says of a study: trials by state (Optuna's words), the best, attributes."""

    counts: Mapping[str, int]
    best: Best | None
    system_attrs: Mapping[str, Any]


def replay(path: Path, study: str) -> Replay | None:
    """A study as the journal leaves it; None where it is not in there. Raises OSError."""
    with path.open("rb") as lines:
        journal = _Journal()
        journal.read(lines)
        found = journal.live.get(study)
        if found is None:
            return None
        study_id, directions = found
        mine = [(id_, trial) for id_, trial in enumerate(journal.trials) if trial.study == study_id]
        complete = [
            (values[0], number, id_)
            for number, (id_, trial) in enumerate(mine)
            if trial.state == "COMPLETE" and (values := json.loads(trial.values))
        ]
        best = None
        if complete and len(directions) == 1:
            sign = 1 if directions[0] == 1 else -1
            value, number, id_ = min(complete, key=lambda one: (sign * one[0], one[1]))
            lines.seek(0)
            best = Best(number=number, value=value, params=_params(lines, journal.skipped, id_))
        return Replay(
            counts=Counter(trial.state for _, trial in mine),
            best=best,
            system_attrs=journal.attrs.get(study_id, {}),
        )


@dataclass(slots=True)
class _Trial:
    study: int
    state: str
    values: bytes = b"null"  # JSON


@dataclass(slots=True)
class _Journal:
    """All studies of a journal: ids count those ever made, deleted ones too."""

    live: dict[str, tuple[int, Sequence[int]]] = field(default_factory=dict)
    trials: list[_Trial] = field(default_factory=list)
    attrs: dict[int, dict[str, Any]] = field(default_factory=dict)
    skipped: set[int] = field(default_factory=set)  # trials of studies that were gone, by line
    _ids: set[int] = field(default_factory=set)  # of the studies that live
    _studies: int = 0

    def read(self, lines: Iterable[bytes]) -> None:
        """Takes in the lines; a torn last one counts as not written."""
        made = 0
        for line in lines:
            match _operation(line):
                case 0:
                    self._make_study(json.loads(line))
                case 1:
                    self._ids.discard(gone := json.loads(line)["study_id"])
                    self.live = {name: one for name, one in self.live.items() if one[0] != gone}
                case 3:
                    log = json.loads(line)
                    self.attrs.setdefault(log["study_id"], {}).update(log["system_attr"])
                case 4:
                    self._make_trial(line, made)
                    made += 1
                case 6:
                    self._set_state(line)

    def _make_study(self, log: Mapping[str, Any]) -> None:
        if log["study_name"] not in self.live:
            self.live[log["study_name"]] = (self._studies, log["directions"])
            self._ids.add(self._studies)
            self._studies += 1

    def _make_trial(self, line: bytes, made: int) -> None:
        head = _MADE.match(line)
        if head:
            study, state = int(head[1]), int(head[2] or 0)
        else:
            log = json.loads(line)
            study, state = log["study_id"], log.get("state", 0)
        if study in self._ids:
            self.trials.append(_Trial(study, _STATES[state]))
        else:
            self.skipped.add(made)

    def _set_state(self, line: bytes) -> None:
        head = _SET.match(line)
        if head:
            id_, state, values = int(head[1]), int(head[2]), head[3]
        else:
            log = json.loads(line)
            id_, state, values = log["trial_id"], log["state"], json.dumps(log["values"]).encode()
        trial = self.trials[id_]
        if trial.state not in _FINISHED:  # Optuna refuses it too
            trial.state, trial.values = _STATES[state], values or b"null"


def _operation(line: bytes) -> int | None:
    """What kind of line it is; None for a torn one."""
    if not line.endswith(b"\n"):
        return None
    code = _OPERATIONS.get(line[:_HEAD])
    return int(json.loads(line)["op_code"]) if code is None else code


def _params(lines: Iterable[bytes], skipped: set[int], id_: int) -> list[tuple[str, float, str]]:
    """The parameters of one trial: those that it was made with, then those that it was given."""
    found: dict[str, tuple[float, str]] = {}
    made, trials, mine = 0, 0, re.compile(rb'"trial_id": ?%d[,}]' % id_)
    for line in lines:
        operation = _operation(line)
        if operation == 4:
            if made not in skipped:
                if trials == id_:
                    log = json.loads(line)
                    given = log.get("params", {})
                    found = {name: (v, log["distributions"][name]) for name, v in given.items()}
                trials += 1
            made += 1
        elif operation in (5, 6) and mine.search(line):
            log = json.loads(line)
            if operation == 5:
                found[log["param_name"]] = (log["param_value_internal"], log["distribution"])
            elif _STATES[log["state"]] in _FINISHED:
                break
    return [(name, internal, distribution) for name, (internal, distribution) in found.items()]
