from __future__ import annotations

import csv
from datetime import UTC, datetime, timedelta, timezone
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl.record import TrialRecord, TrialState
from hpoctl.report.table import columns, trials_summary
from hpoctl.space import Value
from hpoctl.sweep import Metric

LOSS = Metric(name="eval_loss")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text, newline="")))


def finished(number: int = 0, **attrs: object) -> TrialRecord:
    return TrialRecord(
        number=number,
        state=TrialState.COMPLETE,
        values=(3.25,),
        params={"training.lr": 1e-06, "lora.r": 8},
        started=NOON,
        ended=NOON + timedelta(minutes=30),
        attrs=attrs,
    )


def test_the_header_has_the_agreed_order() -> None:
    text = trials_summary([finished(perplexity=24.5, error=None)], [LOSS])
    assert text.splitlines()[0] == (
        "number,state,eval_loss,training.lr,lora.r,"
        "duration_s,gpu_hours,node,task,started,ended,perplexity,error"
    )


def test_one_finished_trial_reads_back() -> None:
    record = finished(task="4711_3", node="alvis1", gpus=4, seed=99, perplexity=24.5)
    assert read(trials_summary([record], [LOSS])) == [
        {
            "number": "0",
            "state": "complete",
            "eval_loss": "3.25",
            "training.lr": "1e-06",
            "lora.r": "8",
            "duration_s": "1800.0",
            "gpu_hours": "2.0",
            "node": "alvis1",
            "task": "4711_3",
            "started": "2026-03-01T12:00:00.000Z",
            "ended": "2026-03-01T12:30:00.000Z",
            "perplexity": "24.5",
            "error": "",
        }
    ]


def test_what_is_missing_is_empty() -> None:
    rows = read(
        trials_summary(
            [finished(0, extra=1), TrialRecord(number=1, state=TrialState.WAITING)], [LOSS]
        )
    )
    assert rows[1] == dict.fromkeys(rows[0], "") | {"number": "1", "state": "waiting"}


def test_a_running_trial_has_a_start_but_no_duration() -> None:
    record = TrialRecord(
        number=0, state=TrialState.RUNNING, started=NOON, attrs={"gpus": 1, "node": "n1"}
    )
    (row,) = read(trials_summary([record], [LOSS]))
    assert row["started"] == "2026-03-01T12:00:00.000Z"
    assert (row["ended"], row["duration_s"], row["gpu_hours"]) == ("", "", "")
    assert row["node"] == "n1"


def test_a_trial_without_gpus_has_no_gpu_hours_to_tell_from_none_used() -> None:
    known, unknown = read(trials_summary([finished(0, gpus=0), finished(1)], [LOSS]))
    assert known["gpu_hours"] == "0.0"
    assert unknown["gpu_hours"] == ""


def test_lines_are_sorted_by_number() -> None:
    text = trials_summary([finished(10), finished(2), finished(1)], [LOSS])
    assert [row["number"] for row in read(text)] == ["1", "2", "10"]


def test_a_pruned_trial_keeps_its_last_value_and_its_state_tells() -> None:
    record = TrialRecord(number=0, state=TrialState.PRUNED, values=(9.5,), steps={10: 9.5})
    (row,) = read(trials_summary([record], [LOSS]))
    assert (row["state"], row["eval_loss"]) == ("pruned", "9.5")


def test_of_a_traceback_only_the_last_line_is_kept() -> None:
    error = 'Traceback (most recent call last):\n  File "x.py"\nRuntimeError: out, "of" memory\n\n'
    (row,) = read(trials_summary([finished(error=error)], [LOSS]))
    assert row["error"] == 'RuntimeError: out, "of" memory'


def test_a_time_in_another_zone_is_written_in_utc() -> None:
    east = timezone(timedelta(hours=2))
    record = TrialRecord(number=0, state=TrialState.RUNNING, started=NOON.astimezone(east))
    (row,) = read(trials_summary([record], [LOSS]))
    assert row["started"] == "2026-03-01T12:00:00.000Z"


def test_null_and_booleans_read_as_in_the_sweep_file() -> None:
    params: dict[str, Value] = {"a": None, "b": True, "c": False, "d": ""}
    (row,) = read(
        trials_summary([TrialRecord(number=0, state=TrialState.WAITING, params=params)], [LOSS])
    )
    assert [row[name] for name in params] == ["null", "true", "false", ""]


def test_only_numbers_become_recorded_columns() -> None:
    record = finished(perplexity=1.5, tokens=7, note="text", flag=True, seed=1, gpus=1)
    (row,) = read(trials_summary([record], [LOSS]))
    assert list(row)[11:] == ["perplexity", "tokens", "error"]


def test_parameters_of_any_trial_have_a_column() -> None:
    one = TrialRecord(number=0, state=TrialState.WAITING, params={"a": 1})
    two = TrialRecord(number=1, state=TrialState.WAITING, params={"b": 2})
    rows = read(trials_summary([one, two], [LOSS]))
    assert [(row["a"], row["b"]) for row in rows] == [("1", ""), ("", "2")]


def test_a_name_that_is_taken_is_prefixed_with_its_kind() -> None:
    record = TrialRecord(
        number=0,
        state=TrialState.COMPLETE,
        values=(1.0, 2.0),
        params={"loss": 3, "node": 4, "free": 5},
        attrs={"free": 6, "loss": 7, "node": "n1"},
    )
    (row,) = read(trials_summary([record], [Metric(name="loss"), Metric(name="state")]))
    assert row["state"] == "complete"
    assert (row["loss"], row["metric:state"]) == ("1.0", "2.0")
    assert (row["param:loss"], row["param:node"], row["free"]) == ("3", "4", "5")
    assert (row["recorded:free"], row["recorded:loss"]) == ("6", "7")
    assert row["node"] == "n1"


words = st.sampled_from(
    ["number", "state", "error", "node", "loss", "a", "param:loss", "recorded:a", "metric:a"]
)


@given(
    st.lists(words, unique=True, min_size=1),
    st.lists(words, unique=True),
    st.lists(words, unique=True),
)
def test_every_metric_parameter_and_record_has_one_column_of_its_own(
    metrics: list[str], params: list[str], recorded: list[str]
) -> None:
    record = TrialRecord(
        number=0,
        state=TrialState.WAITING,
        params=dict.fromkeys(params, 1),
        attrs=dict.fromkeys(recorded, 1),
    )
    named = columns([record], [Metric.model_construct(name=name) for name in metrics])
    sources = list(named.values())
    assert len(set(sources)) == len(sources)
    assert {name for kind, name in sources if kind == "metric"} == set(metrics)
    assert {name for kind, name in sources if kind == "param"} == set(params)
    kept = {"error", "node"}  # attrs that hpoctl writes itself
    assert {name for kind, name in sources if kind == "recorded"} == set(recorded) - kept
    assert (next(iter(named)), list(named)[-1]) == ("number", "error")


@given(st.lists(st.text(), min_size=1))
def test_every_string_parameter_reads_back_from_the_table(values: list[str]) -> None:
    records = [
        TrialRecord(number=number, state=TrialState.WAITING, params={"p": value})
        for number, value in enumerate(values)
    ]
    assert [row["p"] for row in read(trials_summary(records, [LOSS]))] == values


@given(st.lists(st.floats(allow_nan=False), min_size=1))
def test_every_value_reads_back_exactly(values: list[float]) -> None:
    records = [
        TrialRecord(number=number, state=TrialState.COMPLETE, values=(value,))
        for number, value in enumerate(values)
    ]
    rows = read(trials_summary(records, [LOSS]))
    assert [repr(float(row["eval_loss"])) for row in rows] == [repr(value) for value in values]


@pytest.mark.parametrize("records", [[], [finished()]])
def test_lines_end_in_a_newline_alone(records: list[TrialRecord]) -> None:
    text = trials_summary(records, [LOSS])
    assert "\r" not in text
    assert text.count("\n") == 1 + len(records)
