"""A trial on two processes, joined by gloo: one answer for both, and nobody is left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import pytest

from hpoctl.failures import TrialFailed, classify
from hpoctl.kin import children
from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm import ranks
from hpoctl.trial import Checkpointed, Infeasible, Pruned, Trial
from hpoctl.words import Cause

from .conftest import MakeTrial
from .test_causal_lm import POINT, TINY, changed

pytestmark = [
    pytest.mark.timeout(120),
    # As in test_causal_lm: libraries' threads are there when the ranks are forked.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
ONE = changed(
    TINY,
    dataset={"max_blocks": 320},
    model={"dropout": 0.0},
    training={"eval_batch_size": 8},
)
TWO = {**changed(ONE, training={"batch_size": 4}), "processes": 2}


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(ONE)


@pytest.fixture(autouse=True)
def nobody_is_left() -> object:
    before = children()
    yield
    assert children() == before


def test_two_ranks_train_one_model(make_trial: MakeTrial) -> None:
    alone = make_trial(POINT, ONE)
    causal_lm.objective(alone)
    two = make_trial(POINT, {**TWO, "save": True})
    result = causal_lm.objective(two)
    # Each rank took half of what one process took at a step; gradients were averaged.
    assert two.values == pytest.approx(alone.values, abs=2e-3)
    assert result["eval_loss"] == two.values[20]
    for step, extra in two.extras.items():
        assert extra["train_loss"] == pytest.approx(alone.extras[step]["train_loss"], abs=2e-3)
    assert (two.dir / "model" / "tokenizer.json").is_file()


def test_pruning_reaches_both_ranks(make_trial: MakeTrial) -> None:
    trial = make_trial(POINT, TWO, prune_at=10)
    with pytest.raises(Pruned, match="step 10 of 20"):
        causal_lm.objective(trial)
    assert list(trial.values) == [5, 10]
    assert not list(trial.dir.iterdir())


# A look is answered once for both ranks; a report is answered after a look too.
@pytest.mark.parametrize(("ends", "step"), [(3, 3), (11, 10)])
def test_two_ranks_go_on_as_if_nothing_had_been(
    ends: int, step: int, make_trial: MakeTrial
) -> None:
    dropped = changed(ONE, training={"batch_size": 4}, model={"dropout": 0.2})
    whole = make_trial(POINT, {**dropped, "processes": 2})
    causal_lm.objective(whole)
    cut = make_trial(POINT, {**dropped, "processes": 2})
    cut.ends_at = ends
    with pytest.raises(Checkpointed, match=f"at step {step} of 20"):
        causal_lm.objective(cut)
    again = make_trial(POINT, {**dropped, "processes": 2})
    again.attempt = 2
    causal_lm.objective(again)
    assert {**cut.values, **again.values} == whole.values
    assert {**cut.extras, **again.extras} == whole.extras


def test_a_rank_that_is_killed_ends_the_trial(make_trial: MakeTrial) -> None:
    def body(trial: Trial) -> Mapping[str, float]:
        if os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return wait_for_ever()

    with pytest.raises(TrialFailed, match="rank 1 was ended by SIGKILL"):
        ranks.spread(make_trial({}, {}), 2, body)


def wait_for_ever() -> Mapping[str, float]:
    import torch

    torch.distributed.barrier()
    while True:
        signal.pause()


def test_a_rank_that_is_killed_while_both_train_ends_the_trial(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_GRACE_S", 2.0)
    trial = make_trial(POINT, {**changed(ONE, training={"max_steps": 10_000}), "processes": 2})

    others = children()  # servers of other tests, which are none of our business

    def killing(value: float, step: int, **extra: float) -> None:
        os.kill(min(children() - others), signal.SIGKILL)

    trial.report = killing  # type: ignore[method-assign]  # a trial that does harm
    with pytest.raises(TrialFailed, match="was ended by SIGKILL"):
        causal_lm.objective(trial)


def test_what_a_rank_raises_is_what_the_trial_raises(make_trial: MakeTrial) -> None:
    def body(trial: Trial) -> Mapping[str, float]:
        if os.environ["RANK"] == "1":
            raise MemoryError("too much")
        return wait_for_ever()

    with pytest.raises(MemoryError, match="too much") as failed:
        ranks.spread(make_trial({}, {}), 2, body)
    assert "On rank 1:" in "".join(failed.value.__notes__)


def on_rank_1(raised: Exception) -> ranks.Body:
    """A training that one rank leaves, while the other waits for it."""

    def body(trial: Trial) -> Mapping[str, float]:
        if os.environ["RANK"] == "1":
            raise raised
        return wait_for_ever()

    return body


def test_a_full_gpu_of_one_rank_is_told_apart(make_trial: MakeTrial) -> None:
    import torch

    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate") as failed:
        ranks.spread(make_trial({}, {}), 2, on_rank_1(full))
    assert classify(failed.value) is Cause.CUDA_OOM


class Wrapped(Exception):
    """As libraries have them: it cannot be unpickled, and is long."""

    def __init__(self, *, response: str) -> None:
        super().__init__(response)


def test_an_exception_that_cannot_be_passed_on_is_told_in_words(make_trial: MakeTrial) -> None:
    raised = Wrapped(response="no such model" + " at all" * 50_000)
    raised.__cause__ = MemoryError()
    with pytest.raises(TrialFailed, match="Wrapped: no such model") as failed:
        ranks.spread(make_trial({}, {}), 2, on_rank_1(raised))
    assert failed.value.cause is Cause.HOST_OOM
    assert len("".join(failed.value.__notes__).encode()) <= 20_000


def test_what_one_rank_finds_infeasible_is_so_for_all(
    make_trial: MakeTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_GRACE_S", 1.0)
    with pytest.raises(Infeasible, match="too large for this GPU"):
        ranks.spread(make_trial({}, {}), 2, on_rank_1(Infeasible("too large for this GPU")))


def test_parameters_that_cannot_be_used_are_told_once(make_trial: MakeTrial) -> None:
    with pytest.raises(Infeasible, match="cannot be divided among 3 heads"):
        causal_lm.objective(make_trial(changed(POINT, model={"num_heads": 3}), TWO))


@pytest.mark.parametrize(
    ("args", "environ", "count"),
    [
        ({}, {}, 1),
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, 1),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,1,3"}, 3),
        ({"processes": 2}, {"CUDA_VISIBLE_DEVICES": "0,1,3"}, 2),
    ],
)
def test_there_is_a_process_for_each_gpu_unless_it_is_said(
    args: Mapping[str, object], environ: Mapping[str, str], count: int
) -> None:
    assert ranks.count(args, environ) == count
