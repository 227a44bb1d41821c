"""A language model that goes on from another one's checkpoint: weights, moments, its own rates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hpoctl import config, heritage, objectives
from hpoctl.integrations import checkpoints
from hpoctl.objectives import causal_lm
from hpoctl.objectives.causal_lm.trainer import TrialTrainer
from hpoctl.trial import Checkpointed

from .conftest import FakeTrial, PretrainedFolders
from .test_causal_lm import POINT, TINY, changed

SMALL = changed(
    TINY, dataset={"max_blocks": 200}, training={"max_steps": 12, "eval_on_start": True}
)
SLOW = changed(POINT, training={"learning_rate": 3e-3})


@pytest.fixture(scope="module", autouse=True)
def prepared() -> None:
    causal_lm.prepare(SMALL)


def make_member(
    folder: Path,
    parent: Path | None = None,
    params: Mapping[str, object] = SLOW,
    args: Mapping[str, object] = SMALL,
    **known: Any,
) -> FakeTrial:
    """A trial of a population, with its parent's heritage."""
    folder.mkdir(exist_ok=True)
    place = None
    if parent is not None:
        heritage.inherit(parent, folder)
        place = heritage.place(folder)
    return FakeTrial(dir=folder, params=params, args=args, parent_dir=place, hands_on=True, **known)


def test_three_generations_are_one_training(tmp_path: Path) -> None:
    """Each begins with its parent's loss at its parent's step, and ends lower."""
    one = make_member(tmp_path / "one")
    result = causal_lm.objective(one)
    two = make_member(tmp_path / "two", one.dir, seed=2)
    causal_lm.objective(two)
    three = make_member(tmp_path / "three", two.dir, seed=3)
    last = causal_lm.objective(three)
    assert [list(trial.values) for trial in (one, two, three)] == [
        [0, 5, 10, 12],
        [12, 17, 22, 24],
        [24, 29, 34, 36],
    ]
    assert two.values[12] == pytest.approx(one.values[12], abs=1e-5)
    assert three.values[24] == pytest.approx(two.values[24], abs=1e-5)
    assert one.values[12] > two.values[24] > three.values[36]
    assert result["eval_loss"] == one.values[12]
    assert last["eval_loss"] == three.values[36]
    for trial in (one, two, three):
        found = checkpoints.latest(trial.dir)
        assert found is not None and found.name == "checkpoint-12"


def test_rates_and_schedule_are_its_own_and_moments_its_parents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_member(tmp_path / "one")
    causal_lm.objective(one)
    seen: list[tuple[list[float], set[float], float]] = []
    take = TrialTrainer._take_state

    def look(trainer: TrialTrainer, parent: Path) -> None:
        take(trainer, parent)
        assert trainer.optimizer is not None and trainer.lr_scheduler is not None
        steps = {float(state["step"]) for state in trainer.optimizer.state.values()}
        decays = [group["weight_decay"] for group in trainer.optimizer.param_groups]
        seen.append((decays, steps, float(trainer.lr_scheduler.get_last_lr()[0])))

    monkeypatch.setattr(TrialTrainer, "_take_state", look)
    training = {"learning_rate": 2e-3, "weight_decay": 0.3, "batch_size": 4}
    params = changed(POINT, training=training)
    causal_lm.objective(make_member(tmp_path / "two", one.dir, params=params))
    assert seen == [([0.3, 0.0], {12.0}, 2e-3)]


def test_an_heir_that_is_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    one = make_member(tmp_path / "one")
    causal_lm.objective(one)
    whole = make_member(tmp_path / "whole", one.dir)
    causal_lm.objective(whole)
    told: dict[int, float] = {}
    for attempt, ends_at in ((1, 7), (2, None)):
        trial = make_member(tmp_path / "cut", one.dir, attempt=attempt, ends_at=ends_at)
        with suppress(Checkpointed):
            causal_lm.objective(trial)
        assert not told.keys() & trial.values.keys()
        told |= trial.values
    assert told == whole.values


def test_an_adapter_is_inherited_too(tmp_path: Path, pretrained_folder: PretrainedFolders) -> None:
    args = {
        **SMALL,
        "model": {"pretrained": str(pretrained_folder("llama"))},
        "lora": {"r": 4, "target_modules": "all-linear"},
    }
    params = {"training": {"learning_rate": 1e-2}}
    causal_lm.prepare(args)
    one = make_member(tmp_path / "one", params=params, args=args)
    causal_lm.objective(one)
    two = make_member(tmp_path / "two", one.dir, params=params, args=args)
    causal_lm.objective(two)
    assert two.values[12] == pytest.approx(one.values[12], abs=1e-5)


def test_two_processes_inherit_alike(tmp_path: Path) -> None:
    args = {**SMALL, "processes": 2}
    one = make_member(tmp_path / "one", args=args)
    causal_lm.objective(one)
    two = make_member(tmp_path / "two", one.dir, args=args)
    causal_lm.objective(two)
    assert list(two.values) == [12, 17, 22, 24]
    assert two.values[12] == pytest.approx(one.values[12], abs=1e-4)


def test_a_parent_without_a_whole_checkpoint_is_no_silent_new_start(tmp_path: Path) -> None:
    one = make_member(tmp_path / "one")
    (one.dir / "checkpoint-12").mkdir()  # without its seal
    with pytest.raises(FileNotFoundError, match="no whole checkpoint there, from which to go on"):
        causal_lm.objective(make_member(tmp_path / "two", one.dir))


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ("", None),
        (", mutate: [training, model]", "model.num_layers: weights that are inherited"),
        (", mutate: [training, model.dropout]", None),
        (", mutate: [training], inherit: nothing", None),
        (", mutate: [model], inherit: nothing", None),
    ],
)
def test_check_refuses_to_mutate_the_shape_of_inherited_weights(
    options: str, refused: str | None
) -> None:
    sweep = config.parse(
        f"""
study: evolving
objective: hpoctl.objectives.causal_lm
objective_args:
  dataset: {{builtin: pydoc}}
  model: {{from_scratch: gpt2, hidden_size: 32, num_heads: 2}}
metrics: [{{name: eval_loss}}]
search_space:
  training: {{learning_rate: {{type: log_uniform, min: 1e-4, max: 1e-2}}}}
  model:
    num_layers: {{type: categorical, values: [1, 2]}}
    dropout: {{type: uniform, min: 0, max: 0.5}}
sampler: {{name: pbt{options}}}
budget: {{trials: 8}}
""",
        "sweep.yaml",
    )
    if refused is None:
        objectives.check(sweep)
        return
    with pytest.raises(ValueError, match=refused):
        objectives.check(sweep)
