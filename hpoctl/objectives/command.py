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
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpoctl import oom
from hpoctl.errors import ConfigError
from hpoctl.failures import TrialFailed, classify_text, last_line
from hpoctl.sweep import PLACEHOLDER
from hpoctl.trial import Checkpointed, Infeasible, Objective, Outcome, Pruned, Trial
from hpoctl.words import Cause

SAVED_EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later
GO_ON, PRUNE, CHECKPOINT, INFEASIBLE = "go on", "prune", "checkpoint", "infeasible"
_LOOK_S = 0.2  # between two looks whether the trial shall save itself
_TAIL = 64 * 1024  # bytes of a program's output, among which its last words are
_LAST_WORDS = 200  # characters
_PRUNED_GRACE_S = 10.0  # for a pruned program to end by itself, and again from SIGTERM to SIGKILL


def runner(command: Sequence[str], metrics: Sequence[str]) -> Objective:
    """The objective that runs `command` and collects `metrics`."""

    def objective(trial: Trial, /) -> Outcome:
        values = _flat(trial.params)
        told = _Told(trial, metrics)
        log, kills = trial.dir / "log.txt", oom.kills()
        begin = log.stat().st_size if log.exists() else 0
        argv = fill_all(command, {**values, **_own(trial)})
        with (
            _listening(told) as address,
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
        if told.infeasible is not None:
            raise Infeasible(told.infeasible)
        if told.over.is_set():
            raise Pruned
        if program.returncode:
            raise _failure(argv[0], program.returncode, _printed(log, begin), kills)
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


class _Told:
    """What the program has said so far. Two threads speak: its output, and the socket."""

    def __init__(self, trial: Trial, metrics: Sequence[str]) -> None:
        self.over = threading.Event()
        self.infeasible: str | None = None
        self._trial = trial
        self._metrics = metrics
        self._result: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._lock = threading.Lock()

    def answer(self) -> str:
        """What the program should do next."""
        if self.infeasible is not None:
            return INFEASIBLE
        if self.over.is_set():
            return PRUNE
        return CHECKPOINT if self._trial.should_checkpoint() else GO_ON

    def hear(self, said: Mapping[str, object]) -> bool:
        """Takes a report or a result; True if the trial should end."""
        if INFEASIBLE in said:
            self.infeasible = str(said[INFEASIBLE])
            self.over.set()
            return True
        values = {
            name: float(value)
            for name, value in said.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        with self._lock:
            if "step" not in said:
                self._result.update(values)
                return self.over.is_set()
            self._reported.update(values)
            first, step = self._metrics[0], int(float(str(said["step"])))
            if first in values:
                extra = {name: value for name, value in values.items() if name != first}
                self._trial.report(values[first], step, **extra)
            if self._trial.should_prune():
                self.over.set()
            return self.over.is_set()

    def hear_line(self, line: str) -> None:
        """Takes a line of output, if it is a JSON object with the first metric in it.

        Or if that is all it says: that its parameters are infeasible.
        """
        if not line.lstrip().startswith("{"):
            return
        try:
            said = json.loads(line)
        except ValueError:
            return
        if self._metrics[0] in said or list(said) == [INFEASIBLE]:
            self.hear(said)

    def outcome(self) -> dict[str, float]:
        """The result, or what the last report said of it."""
        whole = {**self._reported, **self._result}
        for name in self._metrics:
            if name not in whole:
                raise ValueError(
                    f"the command gave no '{name}': let it print {{\"{name}\": 0.5}} on a line of"
                    f" its own, or call 'hpoctl tell {name}=0.5'"
                )
        return whole


def _listen(program: subprocess.Popen[str], told: _Told) -> None:
    """Reads the program's output to its end; a pruned program is ended."""
    threading.Thread(target=_end_if_pruned, args=(program, told), daemon=True).start()
    assert program.stdout is not None
    for line in program.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        told.hear_line(line)
    program.wait()


def _end_if_pruned(program: subprocess.Popen[str], told: _Told) -> None:
    told.over.wait()
    for end in (program.terminate, program.kill):
        try:
            program.wait(_PRUNED_GRACE_S)
        except subprocess.TimeoutExpired:
            end()


@contextmanager
def _listening(told: _Told) -> Iterator[Path]:
    """A socket for `hpoctl tell`, in a folder with a short name that only this user may enter."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            said = json.loads(self.rfile.readline())
            told.hear(said)
            self.wfile.write(json.dumps({"answer": told.answer()}).encode() + b"\n")

    with tempfile.TemporaryDirectory(prefix="hpoctl-") as folder:
        path = Path(folder) / "tell"
        with socketserver.UnixStreamServer(str(path), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield path
            finally:
                server.shutdown()


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
    named = {
        f"HPOCTL_{kind}_" + re.sub(r"[^A-Za-z0-9]", "_", name).upper(): as_text(value)
        for kind, tree in (("ARG", _flat(trial.args)), ("PARAM", values))
        for name, value in tree.items()
    }
    own = {
        "HPOCTL_PARAMS": str(params),
        "HPOCTL_SOCKET": str(address),
        "HPOCTL_TRIAL": str(trial.number),
        "HPOCTL_TRIAL_DIR": str(trial.dir),
        "HPOCTL_SEED": str(trial.seed),
        "HPOCTL_ATTEMPT": str(trial.attempt),
        "HPOCTL_CHECKPOINT": str(address.with_name("checkpoint")),
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


def tell(values: Mapping[str, float | str], step: int | None, environ: Mapping[str, str]) -> str:
    """The program's side of the socket: gives values; what it should do next.

    The value `infeasible` is a text: why its parameters cannot be used. Raises ConfigError outside
    of a trial.
    """
    address = environ.get("HPOCTL_SOCKET")
    if address is None:
        raise ConfigError("hpoctl tell works inside a trial: HPOCTL_SOCKET is not set")
    said = values if step is None else {**values, "step": step}
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        line.sendall(json.dumps(said).encode() + b"\n")
        answer = line.makefile().readline()
    return str(json.loads(answer)["answer"])
