"""The values of a sweep: times as Slurm writes them, GPUs, placeholders, what belongs together."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from hpoctl.samplers import Grid, Tpe
from hpoctl.space import Int, SearchSpace
from hpoctl.sweep import (
    PLACEHOLDER,
    Gpus,
    Resources,
    Sweep,
    parse_duration,
)
from hpoctl.words import Mode, nearest

SECONDS = st.integers(1, 100 * 24 * 3600)
SPACE = SearchSpace({"a": Int(low=1, high=4)})


def as_slurm(seconds: int) -> str:
    """D-HH:MM:SS, as sacct writes it."""
    minutes, rest = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}-{hours % 24:02}:{minute:02}:{rest:02}"


def as_units(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours // 24}d {hours % 24}h {minute}m {rest}s"


def sweep(**keys: object) -> Sweep:
    known = {"study": "s", "objective": "m:f", "search_space": SPACE, "budget": {"trials": 3}}
    return Sweep.model_validate({**known, **keys})


@given(SECONDS)
def test_slurms_days_and_clock_come_back_as_the_same_time(seconds: int) -> None:
    assert parse_duration(as_slurm(seconds)) == timedelta(seconds=seconds)


@given(SECONDS)
def test_units_come_back_as_the_same_time(seconds: int) -> None:
    assert parse_duration(as_units(seconds)) == timedelta(seconds=seconds)


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_a_clock_of_three_parts_is_hours_minutes_seconds(h: int, m: int, s: int) -> None:
    assume(h or m or s)
    expected = timedelta(hours=h, minutes=m, seconds=s)
    assert parse_duration(f"{h}:{m:02}:{s:02}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2h", timedelta(hours=2)),
        ("1h 30m", timedelta(minutes=90)),
        ("1h30min", timedelta(minutes=90)),
        ("45s", timedelta(seconds=45)),
        ("2d", timedelta(days=2)),
        (" 10m ", timedelta(minutes=10)),
        ("90:30", timedelta(minutes=90, seconds=30)),  # minutes:seconds, man sbatch
        ("1-12:30", timedelta(days=1, hours=12, minutes=30)),  # days-hours:minutes, man sbatch
        ("1-12:00:00", timedelta(hours=36)),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(text: str, expected: timedelta) -> None:
    assert parse_duration(text) == expected


NO_TIMES = [30, 1.5, "30", "", "2 hours", "h", "-1h", "1:2", "9999999d", None, True, []]


@pytest.mark.parametrize("given_", NO_TIMES)
def test_what_is_no_time_is_refused_with_examples(given_: object) -> None:
    with pytest.raises(ValueError, match="is not a time: write 30m, 2h, 1h 30m or 1-12:00:00"):
        parse_duration(given_)


@pytest.mark.parametrize("text", ["0s", "0:00:00", "0h 0m"])
def test_a_time_of_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time of zero leaves nothing to run"):
        parse_duration(text)


@given(st.text(max_size=12))
def test_any_text_is_a_time_above_zero_or_a_value_error(text: str) -> None:
    try:
        length = parse_duration(text)
    except ValueError:
        return
    assert length > timedelta()


@given(st.integers(0, 16), st.sampled_from([None, "A100", "a100_3g.20gb", "gtx-1080"]))
def test_gpus_are_a_number_with_or_without_a_type(count: int, kind: str | None) -> None:
    text = f"{kind}:{count}" if kind else count
    assert Resources.model_validate({"gpus": text}).gpus == Gpus(count=count, type=kind)


@pytest.mark.parametrize("given_", ["A100", "1:A100", "-1", 1.5, "all", "A100:one", True])
def test_what_is_no_number_of_gpus_is_refused(given_: object) -> None:
    with pytest.raises(ValidationError, match="is not a number of GPUs: write 1, or A100:1"):
        Resources.model_validate({"gpus": given_})


def test_a_placeholder_is_a_name_in_braces_but_not_a_variable_of_the_shell() -> None:
    word = "{lr} ${HOME} {{x}} {lora.r} { } {1}"
    assert [match[1] for match in PLACEHOLDER.finditer(word) if match[1]] == ["lr", "lora.r"]


def test_the_nearest_word_is_offered_or_all_of_them() -> None:
    assert nearest("asnyc", ["async", "batch"]) == "did you mean 'async'?"
    assert nearest("zzz", ["async", "batch"]) == "known: async, batch"


def test_the_trials_of_a_grid_are_its_cells_without_a_budget() -> None:
    assert sweep(sampler="grid", budget={}).trials == 4
    assert sweep(sampler="grid", budget={"trials": 4}).trials == 4


def test_the_trials_of_a_manual_list_are_its_points() -> None:
    points = [{"a": 1}, {"a": 2}]
    assert sweep(sampler={"name": "manual", "points": points}, budget={}).trials == 2


def test_auto_is_no_mode_yet_and_tpe_the_sampler() -> None:
    assert sweep(mode="auto").mode is None
    assert sweep(mode="async").mode is Mode.ASYNC
    assert isinstance(sweep().sampler, Tpe)
    assert isinstance(sweep(sampler={"name": "grid"}, budget={}).sampler, Grid)


def test_a_sweep_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        sweep().workers = 3  # type: ignore[misc]  # what mypy refuses is what is tested
