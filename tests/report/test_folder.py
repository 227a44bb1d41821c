from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from io import StringIO

from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.folder import first_line, metrics_csv, texts
from hpoctl.sweep import Metric

LOSS = Metric(name="eval_loss")
TRIAL = TrialRecord(
    number=7,
    state=TrialState.COMPLETE,
    values=(3.25,),
    params={"training.lr": 1e-06, "lora.r": 8},
    steps={10: 4.0, 20: 3.25},
    attrs={"seed": 99, "node": "n1"},
)
FAILED = TrialRecord(
    number=8, state=TrialState.FAILED, attrs={"error": "Traceback …\nRuntimeError: no\n"}
)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline="")))


def logged(*lines: Mapping[str, object]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_config_tells_what_the_trial_was_and_reached() -> None:
    files = texts(TRIAL, [LOSS], first_line(TRIAL, [LOSS], {}), "")
    assert YAML(typ="safe", pure=True).load(StringIO(files["config.yaml"])) == {
        "number": 7,
        "state": "complete",
        "seed": 99,
        "values": {"eval_loss": 3.25},
        "params": {"training": {"lr": 1e-06}, "lora": {"r": 8}},
    }


def test_config_is_the_last_file_so_that_it_vouches_for_the_others() -> None:
    assert list(texts(FAILED, [LOSS], "# first\n", ""))[-1] == "config.yaml"


def test_a_failed_trial_leaves_its_whole_traceback() -> None:
    files = texts(FAILED, [LOSS], "# first\n", "")
    assert files["error.txt"] == "Traceback …\nRuntimeError: no\n"
    assert "error.txt" not in texts(TRIAL, [LOSS], "# first\n", "")


def test_the_first_line_is_a_comment_that_differs_with_everything_in_the_folder() -> None:
    running = TrialRecord(number=7, state=TrialState.RUNNING, steps={10: 4.0})
    further = TrialRecord(number=7, state=TrialState.RUNNING, steps={10: 4.0, 20: 3.0})
    lines = [
        first_line(TRIAL, [LOSS], {}),
        first_line(TRIAL, [Metric(name="loss")], {}),
        first_line(TRIAL, [LOSS], {"log.txt": 0}),
        first_line(TRIAL, [LOSS], {"metrics.jsonl": 10}),
        first_line(TRIAL, [LOSS], {"metrics.jsonl": 11}),
        first_line(running, [LOSS], {}),
        first_line(further, [LOSS], {}),
    ]
    assert len(set(lines)) == len(lines)
    assert all(line.startswith("# ") and line.count("\n") == 1 for line in lines)
    assert first_line(TRIAL, [LOSS], {}) == lines[0]


def test_metrics_have_a_line_a_step_in_order() -> None:
    assert metrics_csv({20: 3.25, 10: 4.0}, "") == "step,value\n10,4.0\n20,3.25\n"


def test_a_trial_that_reported_nothing_has_a_header_only() -> None:
    assert metrics_csv({}, "") == "step,value\n"


def test_further_numbers_of_the_log_become_columns() -> None:
    log = logged({"step": 10, "value": 4.0, "train_loss": 4.5}, {"step": 20, "value": 3.0, "lr": 1})
    assert metrics_csv({10: 4.0, 20: 3.0}, log) == (
        "step,value,train_loss,lr\n10,4.0,4.5,\n20,3.0,,1\n"
    )


def test_the_study_has_the_last_word_on_a_value() -> None:
    (row,) = rows(metrics_csv({10: 1.0}, logged({"step": 10, "value": 2.0, "x": 3.0})))
    assert row == {"step": "10", "value": "1.0", "x": "3.0"}


def test_steps_that_the_study_does_not_know_are_taken_from_the_log() -> None:
    log = logged({"step": 10, "value": 4.0}, {"step": 20, "value": 3.0})
    assert [row["step"] for row in rows(metrics_csv({10: 4.0}, log))] == ["10", "20"]


def test_a_torn_line_is_skipped_wherever_it_stands() -> None:
    whole = logged({"step": 10, "value": 4.0, "x": 1.0})
    assert metrics_csv({}, whole + '{"step": 20, "val') == metrics_csv({}, whole)
    after = '{"step": 20, "va' + logged({"step": 20, "value": 3.0})
    assert metrics_csv({}, whole + after) == metrics_csv({}, whole)
    assert metrics_csv({}, after + whole) == metrics_csv({}, whole)


def test_a_trial_run_again_from_an_earlier_step_replaces_what_came_after_it() -> None:
    first = [{"step": s, "value": 9.0, "x": 1.0} for s in (10, 20, 30, 40)]
    again = [{"step": 20, "value": 5.0, "x": 2.0}, {"step": 30, "value": 4.0, "x": 2.0}]
    result = rows(metrics_csv({}, logged(*first, *again)))
    assert [(row["step"], row["x"]) for row in result] == [
        ("10", "1.0"),
        ("20", "2.0"),
        ("30", "2.0"),
    ]


def test_lines_that_are_no_reports_are_skipped() -> None:
    log = '[1]\n7\nnull\n{"value": 1.0}\n{"step": "10"}\n{"step": true}\n' + "[" * 100_000 + "\n"
    assert metrics_csv({}, log) == "step,value\n"


def test_only_numbers_become_columns() -> None:
    log = logged({"step": 1, "value": 2.0, "note": "a,b", "nested": {"x": 1}, "flag": True})
    assert metrics_csv({}, log) == "step,value\n1,2.0\n"


@given(st.dictionaries(st.integers(0, 10**9), st.floats(allow_nan=False)), st.integers(0, 400))
def test_a_log_torn_anywhere_never_hides_what_the_study_knows(
    steps: dict[int, float], cut: int
) -> None:
    ordered = dict(sorted(steps.items()))
    log = logged(*({"step": s, "value": v, "x": v} for s, v in ordered.items()))[:cut]
    result = rows(metrics_csv(steps, log))
    assert {int(row["step"]): float(row["value"]) for row in result} == steps


@given(st.text())
def test_any_text_is_survived_as_a_log(log: str) -> None:
    assert metrics_csv({1: 2.0}, log).startswith("step,value")
