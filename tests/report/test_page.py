"""The report's page: whole, offline, and harmless whatever the names in it are."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hpoctl import report
from hpoctl.failures import group
from hpoctl.hours import Line
from hpoctl.record import AttemptRecord, Outcome, TrialRecord, TrialState
from hpoctl.report import About
from hpoctl.report.page.relations import correlation_ratio, spearman
from hpoctl.report.page.scale import scale
from hpoctl.sweep import Metric
from hpoctl.words import Cause

LOSS, ACCURACY = Metric(name="loss"), Metric(name="acc", goal="maximize")
EVIL = "<script>alert('x')</script> & \"q\""
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a browser would find, and every tag closed in its order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.words.setdefault(self._open[-1], []).append(data)


def trials(count: int, *, several: bool = False, name: str = "lr") -> list[TrialRecord]:
    draw = random.Random(1)
    found = []
    for number in range(count):
        lr, state = draw.uniform(1e-5, 1e-1), TrialState.COMPLETE
        if number % 7 == 3:
            state = TrialState.PRUNED
        elif number % 11 == 5:
            state = TrialState.FAILED
        loss = math.log(lr) ** 2
        values = (loss, draw.random()) if several else (loss,)
        failed = state is TrialState.FAILED
        found.append(
            TrialRecord(
                number=number,
                state=state,
                values=None if failed or (several and state is TrialState.PRUNED) else values,
                params={name: lr, "opt": draw.choice(["adamw", EVIL, None]), "n": number % 5},
                steps={} if several else {step: loss + 1 / step for step in (1, 2, 3)},
                started=NOON,
                ended=NOON + timedelta(seconds=5),
                attrs={"error": f"Traceback\nRuntimeError: {EVIL}"}
                if failed
                else {"memory_gb": 3.0},
                constraints={"memory_gb": number % 3 - 1.0} if state is TrialState.COMPLETE else {},
            )
        )
    return found


def failures() -> tuple[AttemptRecord, ...]:
    return tuple(
        AttemptRecord(
            number=number,
            attempt=1,
            task="7_0",
            node=EVIL,
            started_at=1.0,
            ended_at=2.0,
            outcome=Outcome.FAILED,
            cause=Cause.ERROR,
            error=f"Traceback\nRuntimeError: {EVIL}",
        )
        for number in (5, 16)
    )


def written(
    folder: Path,
    records: Sequence[TrialRecord],
    metrics: Sequence[Metric] = (LOSS,),
    about: About | None = None,
) -> str:
    line = Line(
        task="7_0",
        node="n1",
        gpus=2,
        started_at=0.0,
        allocated_s=7200.0,
        startup_s=600.0,
        training_s=6000.0,
        trials=3,
        reason=None,
        known_from="sacct",
    )
    made = report.write(
        records,
        metrics,
        report_dir=folder / "report",
        results_dir=folder / "trial_results",
        trials_dir=folder / "trials",
        ledger=[line],
        about=about or About(study="a study", importance={"lr": 0.75, "n": 0.25}),
    )
    return made.index.read_text(encoding="utf-8")


def test_the_page_has_everything_on_it_and_needs_nothing_else(tmp_path: Path) -> None:
    text = written(tmp_path, trials(60))
    page = Page(text)
    assert page.words["h2"] == [
        "Best configuration",
        "Optimisation history",
        "Parameter importance",
        "Correlation with the metric",
        "Parallel coordinates",
        "Slices",
        "Learning curves",
        "Trials",
    ]
    assert page.tags.count("svg") == 1 + 1 + 3 + 1
    assert page.addresses == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.tags.count("tr") == 61
    assert "4" in page.words["b"], "GPU-hours"


def test_names_and_errors_of_a_user_do_no_harm(tmp_path: Path) -> None:
    about = About(
        study=EVIL,
        facts={EVIL: EVIL},
        importance={EVIL: 1.0},
        failures=group(failures()),
        stopped=EVIL,
        shown=("memory_gb",),
    )
    text = written(tmp_path, trials(60, name=EVIL), about=about)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "<script>alert" not in text
    assert page.words["h1"] == [EVIL]
    assert page.words["title"][0] == f"{EVIL}: report"


def test_several_metrics_show_their_front(tmp_path: Path) -> None:
    page = Page(written(tmp_path, trials(40, several=True), (LOSS, ACCURACY)))
    assert page.words["h2"][:3] == [
        "A compromise from the front",
        "Pareto front",
        "Optimisation history",
    ]
    assert page.words["h3"][:2] == ["loss", "acc"]


@pytest.mark.parametrize(
    "records",
    [
        [],
        [TrialRecord(number=0, state=TrialState.WAITING)],
        [TrialRecord(number=0, state=TrialState.FAILED)],
        [TrialRecord(number=0, state=TrialState.COMPLETE, values=(math.inf,), params={"a": 1})],
        [TrialRecord(number=0, state=TrialState.COMPLETE, values=(1.0,), params={"a": 1})],
        [
            TrialRecord(number=i, state=TrialState.COMPLETE, values=(v,), params={"a": v, "b": i})
            for i, v in enumerate((1e300, -1e300, math.nan, 0.0, 0.0, 1e-300, 5.0))
        ],
    ],
)
def test_a_study_with_little_to_show_has_a_page(
    tmp_path: Path, records: Sequence[TrialRecord]
) -> None:
    page = Page(written(tmp_path, records, about=About(study="x")))
    assert "Trials" in page.words["h2"]


def test_a_page_of_two_thousand_trials_stays_light(tmp_path: Path) -> None:
    text = written(tmp_path, trials(2_000))
    assert len(text) < 1_500_000
    assert Page(text).tags.count("tr") == 2_001


def test_ranks_say_how_two_rows_of_numbers_go_together() -> None:
    assert spearman([1, 2, 3, 9], [10, 20, 30, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3, 9], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 2], [1, 2, 1, 2]) == pytest.approx(0)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert correlation_ratio(["a", "a", "b", "b"], [1, 1, 2, 2]) == pytest.approx(1)
    assert correlation_ratio(["a", "b", "a", "b"], [1, 1, 2, 2]) == pytest.approx(0)
    assert correlation_ratio(["a", "a"], [1, 2]) is None


def test_a_scale_is_logarithmic_over_two_decades_and_takes_words() -> None:
    wide = scale([1e-6, 1e-2], 0, 100)
    assert wide.log
    assert [tick.text for tick in wide.ticks(5)] == ["1e-06", "1e-05", "0.0001", "0.001", "0.01"]
    assert not scale([1.0, 50.0], 0, 100).log
    words = scale(["a", None, True], 0, 90)
    assert [tick.text for tick in words.ticks(5)] == ["a", "null", "true"]
    assert words.at("a") == 15.0
    assert words.at("b") is None
