"""The chaos run's own ledger: what accounting is late with, and what it never hears of."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.ledger import Life, Told, forgotten, listen
from chaos.stage import Answer, Stage

_STALE = "7_0|hpo-chaos|CANCELLED|2026-11-21T22:00:00|2026-11-21T22:00:26|26|gres/gpu=1|gres/gpu=1"
_FINAL = "7_0|hpo-chaos|CANCELLED|2026-11-21T22:00:00|2026-11-21T22:01:00|60|gres/gpu=1|gres/gpu=1"
_SQUEUE = "7_0|hpo-chaos|CANCELLED|2026-11-21T22:00:00|2026-11-21T22:01:00|1:00"


@dataclass(slots=True, kw_only=True)
class Played(Stage):
    """A stage where sacct learns something after so many looks at it."""

    late: int
    looks: int = field(default=0)

    def run(self, *argv: str, timeout_s: float = 30) -> Answer:
        if argv[0] == "squeue":
            return Answer(code=0, out=_SQUEUE, err="")
        self.looks += 1
        return Answer(code=0, out=_FINAL if self.looks > self.late else _STALE, err="")

    def hpoctl(self, *args: str, timeout_s: float = 150) -> Answer:
        return Answer(code=0, out="", err="")

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return []


def hear(late: int) -> Told:
    stage = Played(nodes=1, late=late)
    try:
        return listen(stage, lambda: 60 / 3600 if stage.looks > late else 26 / 3600, patience_s=20)
    finally:
        stage.folder.rmdir()


def test_an_end_that_slurmctld_has_moved_is_waited_for() -> None:
    """A task that a killed controller let run on in its books was closed in accounting before."""
    told = hear(late=15)
    assert told.settled
    assert [life.seconds for life in told.lives] == [60]
    assert told.status * 3600 == 60


def life(begun: float, seconds: float, task: str = "7_0") -> Life:
    return Life(task=task, name="", state="", begun=begun, seconds=seconds, gpus=1)


def says(begun: float, end: float, restarts: int = 0) -> dict[str, object]:
    known: dict[str, object] = {"task": "7_0", "gpus": 1, "restarts": restarts}
    return {
        **known,
        "allocated_at": begun,
        "started_at": begun + 5,
        "seen_at": end,
        "ended_at": end,
    }


def test_a_life_is_forgotten_if_accounting_knows_neither_it_nor_a_later_one() -> None:
    assert forgotten([says(100, 126)], [life(99, 28)]) == []
    assert [one.begun for one in forgotten([says(100, 126)], [])] == [100]
    assert [one.begun for one in forgotten([says(100, 126)], [life(40, 20)])] == [100]
    assert [one.begun for one in forgotten([says(100, 126)], [life(99, 28, "7_1")])] == [100]


def test_a_row_of_accounting_is_one_life() -> None:
    both = [says(100, 126), says(128, 180, restarts=1)]
    assert [one.begun for one in forgotten(both, [life(99, 28)])] == [128]
    assert forgotten(both, [life(127, 54)]) == [], "what came before the last row is settled"
