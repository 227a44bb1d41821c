"""What the processes of a trial say to it, over a socket, and what they are told.

The other end is `hpoctl.integrations`. Rank 0 speaks for all: the others are told what it was
told, so that they leave their loops at one and the same step.
"""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hpoctl.integrations import CHECKPOINT, GO_ON, INFEASIBLE, PRUNE
from hpoctl.trial import Checkpointed, Infeasible, Pruned, Trial

End = Pruned | Checkpointed | Infeasible
_ENDS: Mapping[str, type[Pruned] | type[Checkpointed] | type[Infeasible]] = {
    "Pruned": Pruned,
    "Checkpointed": Checkpointed,
    "Infeasible": Infeasible,
}
_AT_ONCE_S = 1.0  # within which all processes of a job get a SIGTERM
_KEPT = 1000  # answers: so far behind rank 0 no rank is that trains with it


class Told:
    """What was said so far. Several threads speak: a program's output, and one a process."""

    def __init__(self, trial: Trial, metrics: Sequence[str]) -> None:
        self.over = threading.Event()
        self.end: End | None = None
        self._trial = trial
        self._metrics = metrics
        self._result: dict[str, float] = {}
        self._reported: dict[str, float] = {}
        self._before: dict[str, float] | None = None
        self._result_at = 0.0
        self._lock = threading.Lock()
        self._reports, self._looks = _Agreed(), _Agreed()

    def sigterm(self) -> None:
        """Notes what the result is when SIGTERM comes; a signal's handler, so it takes no lock.

        Slurm's may reach a script's program before the script, and that before this process.
        """
        just_now = time.monotonic() - self._result_at < _AT_ONCE_S
        self._before = {} if just_now else dict(self._result)

    @property
    def came_too_late(self) -> bool:
        """Whether SIGTERM came before the whole result: a script may go on without its program."""
        return self._before is not None and not set(self._metrics) <= set(self._before)

    def answer(self) -> str:
        """What the program should do next."""
        if isinstance(self.end, Infeasible):
            return INFEASIBLE
        if self.over.is_set():
            return PRUNE
        return CHECKPOINT if self._trial.should_checkpoint() else GO_ON

    def hear(self, said: Mapping[str, object]) -> bool:
        """Takes a report or a result; True if the trial should end."""
        if INFEASIBLE in said:
            self._leave(Infeasible(str(said[INFEASIBLE])))
            return True
        values = {
            name: float(value)
            for name, value in said.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        with self._lock:
            if "step" not in said:
                self._result_at = time.monotonic()
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

    def hear_message(self, said: Mapping[str, object]) -> str:
        """Takes what a process says over the socket; the answer."""
        first = said.get("rank", 0) == 0
        match said["kind"]:
            case "checkpoint":
                return self._looks.first(str(said["call"]), self.answer)
            case "report" if first:
                return self._reports.decided(str(said["step"]), self._report_of(said))
            case "report":
                return self._reports.awaited(str(said["step"]))
            case "Infeasible":  # of any rank: it leaves, and the others would wait for it
                self._leave(Infeasible(str(said["why"])))
            case _ if not first:
                return GO_ON
            case "result":
                self.hear(self._by_name(said["outcome"]))
            case kind:
                self._leave(_ENDS[str(kind)](str(said["why"])))
        return self.answer()

    def _leave(self, end: End) -> None:
        self.end = end
        if isinstance(end, Infeasible):
            self.over.set()

    def _report_of(self, said: Mapping[str, object]) -> Callable[[], str]:
        values = said["values"]
        assert isinstance(values, dict)
        mine = {self._metrics[0]: said["value"]} if "value" in said else {}

        def report() -> str:
            self.hear({**values, **mine, "step": said["step"]})
            return self.answer()

        return report

    def _by_name(self, outcome: object) -> Mapping[str, object]:
        if isinstance(outcome, dict):
            return outcome
        values = outcome if isinstance(outcome, list) else [outcome]
        if len(values) != len(self._metrics):
            raise ValueError(f"the program gave {outcome!r}, not one number for each metric")
        return dict(zip(self._metrics, values, strict=True))

    def rank_0_left(self) -> None:
        """Nobody waits any longer for what rank 0 might have said."""
        self._reports.end()

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


class _Agreed:
    """Answers that all ranks get alike, each to a question of its own."""

    def __init__(self) -> None:
        self._answers: dict[str, str] = {}
        self._given = threading.Condition()
        self._ended = False

    def first(self, question: str, decide: Callable[[], str]) -> str:
        """What whoever asked first was told."""
        with self._given:
            if question not in self._answers:
                self._keep(question, decide())
            return self._answers[question]

    def decided(self, question: str, decide: Callable[[], str]) -> str:
        """A new answer, which who waits for it gets too."""
        with self._given:
            self._keep(question, decide())
            return self._answers[question]

    def awaited(self, question: str) -> str:
        """What is decided, as soon as it is."""
        with self._given:
            self._given.wait_for(lambda: question in self._answers or self._ended)
            return self._answers.get(question, GO_ON)

    def end(self) -> None:
        """Nothing more will be decided."""
        with self._given:
            self._ended = True
            self._given.notify_all()

    def _keep(self, question: str, answer: str) -> None:
        self._answers[question] = answer
        if len(self._answers) > _KEPT:
            del self._answers[next(iter(self._answers))]
        self._given.notify_all()


class Server(socketserver.ThreadingUnixStreamServer):
    """The trial's end of the socket: a thread for each process that speaks."""

    daemon_threads = True
    request_queue_size = 128


@contextmanager
def bound(told: Told) -> Iterator[Server]:
    """A socket in a folder with a short name that only this user may enter; nobody listens yet."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            speaks_for_all = False
            for line in self.rfile:
                said = json.loads(line)
                speaks_for_all = said.get("stays", False) and said.get("rank", 0) == 0
                answer = told.hear_message(said)
                self.wfile.write(json.dumps({"answer": answer}).encode() + b"\n")
            if speaks_for_all:
                told.rank_0_left()

    with (
        tempfile.TemporaryDirectory(prefix="hpoctl-") as folder,
        Server(str(Path(folder) / "tell"), Handler) as server,
    ):
        yield server


@contextmanager
def serving(server: Server, told: Told) -> Iterator[None]:
    """Hears who speaks, from now on: it starts a thread, so fork before."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        told.rank_0_left()
        server.shutdown()


@contextmanager
def listening(told: Told) -> Iterator[Path]:
    """The address of a socket that hears who speaks."""
    with bound(told) as server, serving(server, told):
        yield Path(str(server.server_address))
