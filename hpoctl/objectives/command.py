"""The `command:` objective: any program, started once a trial.

Parameters reach it three ways: `{training.learning_rate}` in the command is replaced, every
parameter is a variable `HPOCTL_PARAM_TRAINING_LEARNING_RATE`, and `HPOCTL_PARAMS` names a JSON
file, nested as the search space. Values come back two ways: a line of its output that is a JSON
object with the first metric in it, or a call of `hpoctl tell`. With a `step` they are a report,
without one the result; where there is no result, the last report is it. A program whose parameters
cannot be used says so on a line too, `{"infeasible": "why"}`, or by `hpoctl tell --infeasible why`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpoctl import oom
from hpoctl.failures import TrialFailed, classify_text, last_line
from hpoctl.objectives.telling import Told, listening
from hpoctl.sweep import PLACEHOLDER
from hpoctl.trial import Checkpointed, Infeasible, Objective, Outcome, Pruned, Trial
from hpoctl.words import Cause

SAVED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
_LOOK_S = 0.2  # between two looks whether the trial shall save itself
_TAIL = 64 * 1024  # bytes of a program's output, among which its last words are
_LAST_WORDS = 200  # characters
_ASKED_S = 2.0  # the worker gets Slurm's SIGTERM with its trial, and asks the trial at once
_SETTLE_S = 0.1  # Slurm's SIGTERM may have ended the program and be on its way here
_TOO_LATE = "{0} and what it runs were sent SIGTERM: what it gave after that is not taken"
_PRUNED_GRACE_S = 10.0  # for a pruned program to end by itself, and again from SIGTERM to SIGKILL


def runner(command: Sequence[str], metrics: Sequence[str]) -> Objective:
    """The objective that runs `command` and collects `metrics`."""

    def objective(trial: Trial, /) -> Outcome:
        values = _flat(trial.params)
        told = Told(trial, metrics)
        log, kills = trial.dir / "log.txt", oom.kills()
        begin = log.stat().st_size if log.exists() else 0
        argv = fill_all(command, {**values, **_own(trial)})
        with (
            _heeding_sigterm(told),
            listening(told) as address,
            _asking(trial, address.with_name("checkpoint")),
            subprocess.Popen(
                argv,
                env=_environment(trial, values, address),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                errors="replace",
            ) as program,
        ):
            _listen(program, told)
        if program.returncode == SAVED_EXIT_CODE and trial.should_checkpoint():
            raise Checkpointed
        if isinstance(told.end, Infeasible):
            raise told.end
        if told.over.is_set():
            raise Pruned
        if told.end is not None and not program.returncode:
            raise told.end
        if program.returncode:
            raise _failure(argv[0], program.returncode, _printed(log, begin), kills)
        if told.came_too_late and _is_asked(trial):
            raise TrialFailed(_TOO_LATE.format(argv[0]), Cause.PREEMPTED)
        return told.outcome()

    return objective


def fill_all(command: Sequence[str], values: Mapping[str, object]) -> list[str]:
    """The command for one trial; a word with a parameter that the trial has not is left out."""
    return [
        fill(word, values)
        for word in command
        if all(match[1] is None or match[1] in values for match in PLACEHOLDER.finditer(word))
    ]


def fill(word: str, values: Mapping[str, object]) -> str:
    """A word of the command with its placeholders replaced; `{{` and `}}` stand for braces."""

    def text(match: re.Match[str]) -> str:
        return {"{{": "{", "}}": "}"}.get(match[0]) or as_text(values[match[1]])

    return PLACEHOLDER.sub(text, word)


def as_text(value: object) -> str:
    """A value as a program reads it: text as it stands, else as in JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _listen(program: subprocess.Popen[str], told: Told) -> None:
    """Reads the program's output to its end; a pruned program is ended."""
    threading.Thread(target=_end_if_pruned, args=(program, told), daemon=True).start()
    assert program.stdout is not None
    for line in program.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        told.hear_line(line)
    program.wait()


def _end_if_pruned(program: subprocess.Popen[str], told: Told) -> None:
    told.over.wait()
    for end in (program.terminate, program.kill):
        try:
            program.wait(_PRUNED_GRACE_S)
        except subprocess.TimeoutExpired:
            end()


@contextmanager
def _heeding_sigterm(told: Told) -> Iterator[None]:
    """Lets `told` know when this process is sent SIGTERM: with it all others of a Slurm job are."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.sigterm())
    try:
        yield
        time.sleep(_SETTLE_S)
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_asked(trial: Trial) -> bool:
    """Whether the trial shall save itself; a script that kills its own group was told by nobody."""
    deadline = time.monotonic() + _ASKED_S
    while not trial.should_checkpoint() and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    return trial.should_checkpoint()


@contextmanager
def _asking(trial: Trial, note: Path) -> Iterator[None]:
    """Lets a file appear when the trial shall save itself: any program can look for one."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if trial.should_checkpoint():
                note.touch()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _environment(trial: Trial, values: Mapping[str, object], address: Path) -> dict[str, str]:
    params = trial.dir / "params.json"
    params.write_text(json.dumps(trial.params, indent=2) + "\n", encoding="utf-8")
    args = trial.dir / "args.json"
    args.write_text(json.dumps(trial.args, indent=2, default=str) + "\n", encoding="utf-8")
    named = {
        f"HPOCTL_{kind}_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper(): as_text(value)
        for kind, tree in (("ARG", _flat(trial.args)), ("PARAM", values))
        for name, value in tree.items()
    }
    own = {
        "HPOCTL_PARAMS": str(params),
        "HPOCTL_ARGS": str(args),
        "HPOCTL_SOCKET": str(address),
        "HPOCTL_TRIAL": str(trial.number),
        "HPOCTL_TRIAL_DIR": str(trial.dir),
        "HPOCTL_METRICS": " ".join(trial.metrics),
        "HPOCTL_SEED": str(trial.seed),
        "HPOCTL_ATTEMPT": str(trial.attempt),
        "HPOCTL_CPUS": str(trial.cpus),
        "HPOCTL_CHECKPOINT": str(address.with_name("checkpoint")),
        "HPOCTL_PARENT_DIR": str(trial.parent_dir or ""),
        "HPOCTL_HANDS_ON": "1" if trial.hands_on else "",
    }
    return {**os.environ, **named, **own}


def _own(trial: Trial) -> dict[str, object]:
    return {
        "trial.number": trial.number,
        "trial.dir": str(trial.dir),
        "trial.seed": trial.seed,
        "trial.params": str(trial.dir / "params.json"),
    }


def _flat(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _failure(name: str, returncode: int, printed: str, kills: int | None) -> TrialFailed:
    """What a program's end says, with the last line that it printed, which tells most."""
    cause, ending = classify_text(printed), f"left with exit code {returncode}"
    if returncode < 0:
        full, hint = oom.said_of_a_kill(kills) if returncode == -signal.SIGKILL else (False, "")
        cause = Cause.HOST_OOM if full else cause
        ending = f"was ended by signal {-returncode}{hint}"
    words = f" ({last_line(printed)[:_LAST_WORDS]})" if printed.strip() else ""
    return TrialFailed(f"{name} {ending}{words}: see log.txt of the trial", cause)


def _printed(log: Path, begin: int) -> str:
    """The end of what was printed since the log had `begin` bytes."""
    try:
        with log.open("rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - _TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
