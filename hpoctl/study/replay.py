"""What a journal says of a study, without Optuna and without reading more than is asked for.

The journal of a large study is hundreds of MiB: it is read line by line, and of most lines only as
much as tells what they change. The records are those of optuna.storages.journal (5.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpoctl.study.journal import Record, parse

_STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")
_FINISHED = ("COMPLETE", "PRUNED", "FAIL")
_START = b'{"op_code":'
_MAKES, _SETS_PARAM, _SETS_ATTR = (b'{"op_code":%d,' % operation for operation in (4, 5, 8))
_REPORTS, _NOTES = b'{"op_code":7,', b'{"op_code":9,'
_CONSTRAINT = b'"system_attr":{"constraints:'  # the one note that is not a pruner's
_HOLDERS = (b'"user_attr":{"task":', b'"user_attr":{"life":')
# The lines that there are most of, as Optuna writes them; others are read as JSON.
_MADE = re.compile(
    rb'\{"op_code":4,"worker_id":"[^"\\]*","study_id":(\d+),'
    rb'"datetime_start":(?:null|"[^"]*")(?:,"state":(\d))?[,}]'
)
_SET = re.compile(
    rb'\{"op_code":6,"worker_id":"[^"\\]*","trial_id":(\d+),"state":(\d),'
    rb'"values":(?:null|(\[[^][]*\]))[,}]'
)


@dataclass(slots=True)
class Trial:
    """One trial so far: `made` is which of the lines that make trials made it."""

    study_id: int
    made: int
    state: str
    values: bytes = b"null"  # JSON
    holder: dict[str, Any] = field(default_factory=dict)  # the task and the life that claimed it
    infeasible: bool = False


@dataclass(slots=True)
class Replay:
    """All studies of a journal; `live` maps a name to an id and the directions."""

    path: Path
    live: dict[str, tuple[int, Sequence[int]]] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    attrs: dict[int, dict[str, Any]] = field(default_factory=dict)
    _studies: int = 0  # ever made, deleted ones too
    _made: int = 0

    def read(self) -> Replay:
        """Takes in the whole file. Raises OSError."""
        for line in self._lines():
            if made := _MADE.match(line):
                self._make_trial(int(made[1]), int(made[2] or 0))
            elif ended := _SET.match(line):
                self._set_state(int(ended[1]), int(ended[2]), ended[3] or b"null")
            elif line.startswith(_SETS_PARAM):
                continue  # asked for of one trial only
            elif not line.startswith(_SETS_ATTR) or any(holder in line for holder in _HOLDERS):
                self._take(json.loads(line))
        return self

    def details(self, trial: Trial) -> tuple[Mapping[str, tuple[float, str]], Mapping[str, object]]:
        """A trial's parameters, the number and the distribution's JSON of each; its attributes."""
        found: dict[str, tuple[float, str]] = {}
        attrs: dict[str, object] = {}
        mine = re.compile(rb'"trial_id":%d[,}]' % self.trials.index(trial))
        made = 0
        for line in self._lines():
            if line.startswith(_MAKES):
                if made == trial.made:
                    log = json.loads(line)
                    given = log.get("params", {}).items()
                    found = {name: (at, log["distributions"][name]) for name, at in given}
                made += 1
            elif line.startswith(_SETS_PARAM) and mine.search(line):
                log = json.loads(line)
                found[log["param_name"]] = log["param_value_internal"], log["distribution"]
            elif line.startswith(_SETS_ATTR) and mine.search(line):
                attrs.update(json.loads(line)["user_attr"])
        return found, attrs

    def _lines(self) -> Iterator[bytes]:
        """The records that count, each as Optuna writes it, whatever a kill has left before it."""
        with self.path.open("rb") as lines:
            for line in lines:
                if line.startswith(_START) and line.endswith(b"}\n") and line.count(_START) == 1:
                    unused = line.startswith(_NOTES) and _CONSTRAINT not in line
                    if not (unused or line.startswith(_REPORTS)):
                        yield line
                elif line.endswith(b"\n") and (record := parse(line)[0]) is not None:
                    yield json.dumps(record, separators=(",", ":")).encode()

    def _take(self, log: Record) -> None:
        match log["op_code"]:
            case 0 if log["study_name"] not in self.live:
                self.live[log["study_name"]] = (self._studies, log["directions"])
                self._studies += 1
            case 1:
                gone = log["study_id"]
                self.live = {name: one for name, one in self.live.items() if one[0] != gone}
            case 3:
                self.attrs.setdefault(log["study_id"], {}).update(log["system_attr"])
            case 4:
                self._make_trial(log["study_id"], log.get("state", 0))
            case 6:
                values = json.dumps(log["values"]).encode()
                self._set_state(log["trial_id"], log["state"], values)
            case 8 if self.trials[log["trial_id"]].state not in _FINISHED:
                self.trials[log["trial_id"]].holder.update(log["user_attr"])
            case 9 if self.trials[log["trial_id"]].state not in _FINISHED:
                said = log["system_attr"].items()
                if any(key.startswith("constraints:") and above > 0 for key, above in said):
                    self.trials[log["trial_id"]].infeasible = True

    def _make_trial(self, study_id: int, state: int) -> None:
        if any(study_id == live for live, _ in self.live.values()):
            self.trials.append(Trial(study_id, self._made, _STATES[state]))
        self._made += 1

    def _set_state(self, trial_id: int, state: int, values: bytes) -> None:
        trial = self.trials[trial_id]
        if trial.state not in _FINISHED:  # Optuna refuses it too
            trial.state, trial.values = _STATES[state], values
