"""Failures in classes: told apart, put together, and what a study concludes from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpoctl import failures, oom
from hpoctl.record import AttemptRecord, Outcome
from hpoctl.words import Cause


class OutOfMemoryError(RuntimeError):
    """torch's, by its name."""


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), Cause.CUDA_OOM),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), Cause.CUDA_OOM),
        (raised(ValueError("step failed"), OutOfMemoryError("full")), Cause.CUDA_OOM),
        (MemoryError(), Cause.HOST_OOM),
        (ImportError("no"), Cause.IMPORT),
        (ModuleNotFoundError("no"), Cause.IMPORT),
        (raised(SystemExit("install x"), ImportError("x")), Cause.IMPORT),
        (ValueError("out of memory"), Cause.ERROR),
        (failures.TrialFailed("killed", Cause.HOST_OOM), Cause.HOST_OOM),
    ],
)
def test_an_error_has_a_class_wherever_in_its_chain(error: BaseException, cause: Cause) -> None:
    assert failures.classify(error) is cause


def test_an_error_that_was_suppressed_does_not_count() -> None:
    error = raised(ValueError("boom"), None)
    error.__context__ = ImportError("handled")
    assert failures.classify(error) is Cause.ERROR


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        ("…\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate", Cause.CUDA_OOM),
        ("jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while", Cause.CUDA_OOM),
        ("  File x\nMemoryError\n", Cause.HOST_OOM),
        ("ModuleNotFoundError: No module named 'x'\n", Cause.IMPORT),
        ("no MemoryError here", Cause.ERROR),
        ("", Cause.ERROR),
    ],
)
def test_a_program_says_what_it_died_of_in_its_last_words(printed: str, cause: Cause) -> None:
    assert failures.classify_text(printed) is cause


def attempt(number: int, error: str | None = None, **changes: object) -> AttemptRecord:
    """Trial `number`, which failed with this error, or succeeded."""
    given: dict[str, Any] = {
        "task": "7_0",
        "node": "n1",
        "attempt": 1,
        "started_at": float(number),
        "ended_at": float(number + 1),
        "outcome": Outcome.COMPLETE if error is None else Outcome.FAILED,
        "cause": None if error is None else Cause.ERROR,
        "error": error or "",
        **changes,
    }
    return AttemptRecord(number=number, **given)


def test_failures_that_differ_in_numbers_only_are_the_same() -> None:
    found = failures.group(
        [
            attempt(0, "Traceback\n  line 3\nOSError: disk 0x7f3a full at 20.5 GiB"),
            attempt(1),
            attempt(2, "Traceback\n  line 9\nOSError: disk 0x1 full at 3 GiB", node="n2"),
            attempt(3, "KeyError: 'a'"),
        ]
    )
    assert [(group.count, group.trials, group.nodes) for group in found] == [
        (2, (0, 2), {"n1": 1, "n2": 1}),
        (1, (3,), {"n1": 1}),
    ]
    assert found[0].first.number == 0
    assert found[0].said == "OSError: disk 0x7f3a full at 20.5 GiB"


def test_the_same_words_of_another_class_are_another_failure() -> None:
    found = failures.group([attempt(0, "gone"), attempt(1, "gone", cause=Cause.LOST)])
    assert [group.count for group in found] == [1, 1]


def test_five_trials_that_die_alike_stop_a_sweep() -> None:
    dead = [attempt(number, f"ValueError: no data at {number}") for number in range(5)]
    assert failures.why_stop(dead[:4], 5, since=0.0) is None
    why = failures.why_stop(dead, 5, since=-1.0)
    assert why == "5 trials in a row failed alike: error: ValueError: no data at 4"
    assert failures.why_stop(dead, 0, since=-1.0) is None


def test_a_success_another_death_and_an_earlier_stop_keep_a_sweep_going() -> None:
    dead = [attempt(number, "ValueError: no data") for number in range(5)]
    assert failures.why_stop([attempt(9), *dead], 5, since=-1.0) is None
    assert failures.why_stop([*dead[:4], attempt(4, "KeyError")], 5, since=-1.0) is None
    assert failures.why_stop(dead, 5, since=2.0) is None


def test_what_the_cluster_does_to_trials_stops_no_sweep() -> None:
    for cause in failures.OF_THE_CLUSTER:
        dead = [attempt(number, "gone", cause=cause) for number in range(9)]
        assert failures.why_stop(dead, 5, since=-1.0) is None


def test_a_node_on_which_trials_die_as_nowhere_else_is_avoided() -> None:
    dead = [attempt(n, "RuntimeError: CUDA error: ECC", node="n2") for n in range(3)]
    well = attempt(8)
    why = failures.why_avoid("n2", [well, *dead])
    assert why is not None and why.endswith("error: RuntimeError: CUDA error: ECC")
    assert failures.why_avoid("n1", [well, *dead]) is None
    assert failures.why_avoid("n2", dead) is None, "there is no other node"
    assert failures.why_avoid("n2", [well, *dead[:2]]) is None
    assert failures.why_avoid("n2", [*dead, attempt(9, node="n2"), well]) is None
    assert failures.why_avoid("n2", [well, *dead], {"n3"}) == why
    assert failures.why_avoid("n2", [well, *dead], {"n1"}) is None, "no other node is left"
    seen = attempt(7, "RuntimeError: CUDA error: ECC")
    assert failures.why_avoid("n2", [well, seen, *dead]) is None, "another node shows it too"


@given(st.lists(st.tuples(st.sampled_from(["a", "b", None]), st.sampled_from(["n1", "n2"]))))
def test_every_failure_is_in_exactly_one_group(ended: list[tuple[str | None, str]]) -> None:
    attempts = [attempt(n, error, node=node) for n, (error, node) in enumerate(ended)]
    groups = failures.group(attempts)
    assert sum(group.count for group in groups) == sum(error is not None for error, _ in ended)
    assert all(sum(group.nodes.values()) == group.count for group in groups)


@pytest.mark.parametrize(
    ("cgroup", "path", "text"),
    [
        (
            "0::/system.slice/slurmstepd.scope/job_7/step_batch\n",
            "system.slice/slurmstepd.scope/job_7/step_batch/memory.events",
            "low 0\nhigh 0\nmax 11\noom 3\noom_kill 2\noom_group_kill 0\n",
        ),
        (
            "9:cpuset:/slurm/uid_0/job_7\n5:memory:/slurm/uid_0/job_7/step_batch\n",
            "memory/slurm/uid_0/job_7/step_batch/memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
        ),
    ],
)
def test_the_kernels_kills_are_read_of_both_versions_of_cgroups(
    tmp_path: Path, cgroup: str, path: str, text: str
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(cgroup)
    assert oom.kills(tmp_path) is None
    counter = tmp_path / "sys/fs/cgroup" / path
    counter.parent.mkdir(parents=True)
    counter.write_text(text)
    assert oom.kills(tmp_path) == 2
    assert oom.kills(tmp_path / "elsewhere") is None


def test_infeasible_trials_stop_no_sweep_until_there_is_nothing_else() -> None:
    def attempts(infeasible: int, *others: Cause) -> list[AttemptRecord]:
        causes = [*others, *[Cause.INFEASIBLE] * infeasible]
        return [
            AttemptRecord(
                number=number,
                attempt=1,
                task="7_0",
                node="n1",
                started_at=float(number + 1),
                ended_at=float(number + 2),
                outcome=Outcome.FAILED,
                cause=cause,
                error="Infeasible: 5 heads",
            )
            for number, cause in enumerate(causes)
        ]

    assert failures.why_stop(attempts(29), 5, since=0.0) is None
    assert failures.why_stop(attempts(30), 0, since=0.0) is None
    assert failures.why_stop(attempts(30), 5, since=0.0) == (
        "30 trials in a row were infeasible, the last one by: Infeasible: 5 heads"
    )
    assert failures.why_stop(attempts(9, *[Cause.ERROR] * 4), 5, since=0.0) is None
    assert "error" in str(failures.why_stop(attempts(9, *[Cause.ERROR] * 5), 5, since=0.0))
    assert failures.why_avoid("n1", attempts(9)) is None
