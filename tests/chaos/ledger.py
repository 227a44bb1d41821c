"""GPU-hours on both sides: in hpoctl's eyes, and as accounting and the workers tell them."""

from __future__ import annotations

import csv
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from chaos.stage import STUDY, Stage, within

LIMIT = 0.01  # by which the two may differ
_SKEW_S = 5.0  # between the clocks of slurmctld and of a worker's shell
_QUIET_S = 5.0  # so long accounting has said the same; hpoctl may have asked it 4 s ago


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One life of a task, from a moment for some seconds."""

    task: str
    name: str
    state: str
    begun: float
    seconds: float
    gpus: int

    def shared_s(self, other: Life) -> float:
        """For how long both ran, with room for two clocks; none or less if they are not the same.

        One that has begun before, and ran into the other, is the same: a controller that was
        killed starts a task anew in its books.
        """
        if self.task != other.task:
            return 0.0
        begun = max(self.begun, other.begun)
        return min(self.begun + self.seconds, other.begun + other.seconds) + _SKEW_S - begun


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What everybody said of the run's allocations once accounting had settled, word for word."""

    sacct: tuple[str, ...]
    squeue: tuple[str, ...]
    workers: tuple[dict[str, object], ...]
    ledger: tuple[dict[str, str], ...]
    status: float
    settled: bool

    @property
    def lives(self) -> list[Life]:
        """Every life that accounting knows from start to end.

        A controller that was killed may have told the start only.
        """
        return [life for line in self.sacct if (life := _life(line)) is not None]

    def tables(self) -> dict[str, object]:
        """All of it, by task and time, to see who is wrong."""
        rows: list[tuple[str, str]] = []
        rows += [(_cell(line, 0), f"sacct   {line}") for line in self.sacct]
        rows += [(_cell(line, 0), f"squeue  {line}") for line in self.squeue]
        rows += [(str(one["task"]), f"worker  {_worker(one)}") for one in self.workers]
        rows += [(line["task"], f"ledger  {_ledger(line)}") for line in self.ledger]
        return {"settled": self.settled, "rows": [row for _, row in sorted(rows, key=_by_task)]}


def listen(stage: Stage, ask: Callable[[], float], patience_s: float = 60) -> Told:
    """What both sides say: accounting's word is the same before and after hpoctl's `ask`.

    slurmctld tells slurmdbd of an end when it can: seconds late, after a restart more. Of a task
    that runs on in a restarted controller's eyes accounting may have an end already, which is moved
    when the task is cancelled.
    """
    end = time.monotonic() + patience_s
    while True:
        settled = within(end - time.monotonic(), _Settled(stage))
        before, status = _sacct(stage), ask()
        after = _sacct(stage)
        if (settled and before == after) or time.monotonic() > end:
            records = stage.rows("select record from hpoctl_workers order by life")
            return Told(
                sacct=tuple(after),
                squeue=tuple(_squeue(stage)),
                workers=tuple(json.loads(str(text)) for (text,) in records),
                ledger=_ledger_lines(stage),
                status=status,
                settled=settled and before == after,
            )


@dataclass(slots=True)
class _Settled:
    """Whether accounting has heard all ends that slurmctld knows, and has said the same for long.

    Of what a killed slurmctld has forgotten, it may have heard of the start, and never hears more.
    """

    stage: Stage
    told: list[str] | None = None
    since: float = 0.0

    def __call__(self) -> bool:
        now = _sacct(self.stage)
        if now != self.told:
            self.told, self.since = now, time.monotonic()
        ends = {(_cell(line, 0), _cell(line, 4)) for line in now}
        lasts = {(_cell(line, 0), _cell(line, 4)) for line in _squeue(self.stage)}
        return lasts <= ends and time.monotonic() > self.since + _QUIET_S


def _sacct(stage: Stage) -> list[str]:
    columns = "JobID,JobName,State,Start,End,ElapsedRaw,AllocTRES,ReqTRES"
    answer = stage.run("sacct", "-aDXnP", "-S", "now-1days", "-o", columns)
    lines = [line for line in answer.out.splitlines() if _cell(line, 1).startswith("hpo-")]
    # What is not over has lasted for longer at each look.
    return sorted(re.sub(r"\|Unknown\|\d+\|", "|Unknown||", line) for line in lines)


def _squeue(stage: Stage) -> list[str]:
    answer = stage.run("squeue", "-hra", "-t", "all", "-o", "%F_%K|%j|%T|%S|%e|%M")
    return [line for line in answer.out.splitlines() if _cell(line, 1).startswith("hpo-")]


def _ledger_lines(stage: Stage) -> tuple[dict[str, str], ...]:
    """The lines of hpoctl's report."""
    folder = stage.folder / "told"
    stage.hpoctl("report", STUDY, "--output", str(folder))
    file = Path(folder, "gpu_hours.csv")
    return tuple(csv.DictReader(file.read_text().splitlines())) if file.exists() else ()


def _life(line: str) -> Life | None:
    task, name, state, start, end, seconds, allocated, requested = line.split("|")
    if {"None", "Unknown"} & {start, end}:
        return None
    # Slurm 22.05 forgets the GPUs of some tasks that it starts after its controller was restarted.
    granted = dict(word.split("=") for word in f"{requested},{allocated}".split(",") if word)
    return Life(
        task=task,
        name=name,
        state=state,
        begun=datetime.fromisoformat(start).timestamp(),
        seconds=float(seconds),
        gpus=int(granted.get("gres/gpu", 0)),
    )


def forgotten(workers: Sequence[dict[str, object]], lives: Sequence[Life]) -> list[Life]:
    """Lives that workers tell of and accounting does not: a killed controller may lose them.

    Each row of accounting is one life: that which shares the most seconds with it. What it left out
    between two rows it does not charge to anybody.
    """
    told = _told(workers)
    pairs = sorted(
        (
            (shared_s, mine, theirs)
            for mine, life in enumerate(told)
            for theirs, known in enumerate(lives)
            if (shared_s := life.shared_s(known)) > 0
        ),
        reverse=True,
    )
    found: dict[int, int] = {}
    for _, mine, theirs in pairs:
        if mine not in found and theirs not in found.values():
            found[mine] = theirs
    return [
        life
        for mine, life in enumerate(told)
        if mine not in found and not any(_is_settled(life, known) for known in lives)
    ]


def _is_settled(life: Life, known: Life) -> bool:
    """Whether accounting knows what came later of a task: it has nothing more to say of before."""
    return life.task == known.task and life.begun < known.begun + known.seconds - _SKEW_S


def _told(workers: Sequence[dict[str, object]]) -> list[Life]:
    """Each allocation in the words of its workers; those of one have the same shell."""
    spans: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for record in workers:
        key = (record["task"], record.get("restarts", 0), record.get("allocated_at"))
        spans.setdefault(key, []).append(record)
    return [
        Life(
            task=str(task),
            name="",
            state="FORGOTTEN",
            begun=(begun := _number(records[0].get("allocated_at") or records[0]["started_at"])),
            seconds=_until(records[-1]) - begun,
            gpus=int(_number(records[0]["gpus"])),
        )
        for (task, _, _), records in spans.items()
    ]


def _until(record: dict[str, object]) -> float:
    end = _number(record["ended_at"] or record["seen_at"])
    return min(end, _number(record["told_at"])) if record.get("told") == "SIGTERM" else end


def _number(value: object) -> float:
    return float(str(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """GPU-hours in hpoctl's eyes and in Slurm's, and of lives that only the workers know."""

    hpoctl: float
    sacct: float
    forgotten: float

    @property
    def error(self) -> float:
        """By which hpoctl differs from what is known, as a share."""
        known = self.sacct + self.forgotten
        return abs(self.hpoctl - known) / known if known else 0.0


def hours(lives: Sequence[Life]) -> float:
    """GPU-hours."""
    return sum(life.seconds * life.gpus for life in lives) / 3600


# --- to be read -----------------------------------------------------------------------------------


def _cell(line: str, number: int) -> str:
    return line.split("|")[number]


def _by_task(row: tuple[str, str]) -> tuple[int, int, str]:
    array, _, index = row[0].partition("_")
    return int(array), int(index) if index.isdigit() else -1, row[1]


def _worker(record: dict[str, object]) -> str:
    names = [*("task", "life", "restarts", "allocated_at", "started_at", "told", "told_at")]
    names += ["seen_at", "ended_at", "reason"]
    return " ".join(f"{name}={_moment(record.get(name))}" for name in names)


def _moment(value: object) -> object:
    """Moments as Slurm writes them."""
    if isinstance(value, float) and value > 1e9:
        return datetime.fromtimestamp(value).isoformat(timespec="milliseconds")
    return value


def _ledger(line: dict[str, str]) -> str:
    names = ("task", "started", "allocated_s", "gpus", "known_from", "reason")
    return " ".join(f"{name}={line[name]}" for name in names)
