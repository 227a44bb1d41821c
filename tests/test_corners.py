"""Which points of a space are tried for their memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hpoctl import config
from hpoctl.corners import batch_parameter, corners, doublings, shortened
from hpoctl.space import Categorical, Float, Int, SearchSpace

SPACE = SearchSpace(
    {
        "model.layers": Int(low=2, high=9, step=3),
        "training.batch_size": Categorical(choices=(4, 16, 8)),
        "training.optim": Categorical(choices=("adamw", "sgd")),
        "training.learning_rate": Float(low=1e-6, high=1e-3, log=True),
    }
)


def test_the_largest_comes_first_and_real_numbers_stay() -> None:
    found = {corner.name: corner.params for corner in corners(SPACE, 12)}
    largest = {
        "model.layers": 8,
        "training.batch_size": 16,
        "training.optim": "adamw",
        "training.learning_rate": 1e-6,
    }
    smallest = {**largest, "model.layers": 2, "training.batch_size": 4}
    assert found == {
        "largest": largest,
        "smallest": smallest,
        "largest, training.optim sgd": {**largest, "training.optim": "sgd"},
        "smallest, model.layers 8": {**smallest, "model.layers": 8},
        "smallest, training.batch_size 16": {**smallest, "training.batch_size": 16},
    }
    assert next(iter(found)) == "largest"


def test_a_space_of_one_point_has_one_corner() -> None:
    one = SearchSpace({"lr": Float(low=0.1, high=0.2), "optim": Categorical(choices=("sgd",))})
    assert [corner.name for corner in corners(one, 12)] == ["largest"]


def test_corners_keep_to_conditions_and_divisors() -> None:
    space = config.parse(
        """
study: s
objective: o
search_space:
  hidden: {type: categorical, values: [30, 48]}
  heads: {type: int, min: 1, max: 9, divides: hidden}
  method: {type: categorical, values: [full, lora]}
  r: {type: int, min: 4, max: 64, when: {method: lora}}
budget: {trials: 1}
""",
        "a test",
    ).search_space
    found = {corner.name: dict(corner.params) for corner in corners(space, 12)}
    assert found["largest"] == {"hidden": 48, "heads": 8, "method": "full"}
    assert found["smallest"] == {"hidden": 30, "heads": 1, "method": "full"}
    assert found["largest, method lora"] == {"hidden": 48, "heads": 8, "method": "lora", "r": 64}
    assert all(space.whole(params) == params for params in found.values())


@given(st.integers(1, 6), st.integers(1, 9))
def test_corners_are_points_of_the_space_and_bounded(most: int, high: int) -> None:
    space = SearchSpace({f"p{i}": Int(low=1, high=high) for i in range(9)})
    found = corners(space, most)
    assert 1 <= len(found) <= most
    for corner in found:
        assert all(value in space.parameters[name] for name, value in corner.params.items())


def test_the_batch_is_known_by_its_name() -> None:
    assert batch_parameter(SPACE) == "training.batch_size"
    assert batch_parameter(SearchSpace({"batch_size_decay": Int(low=1, high=2)})) is None


def test_batches_double_up_to_the_largest() -> None:
    assert doublings(1, 20) == (1, 2, 4, 8, 16)
    assert doublings(3, 2) == (3,)


def test_how_long_a_training_is_makes_no_corner() -> None:
    space = SearchSpace({"training.max_steps": Int(low=10, high=99), "width": Int(low=1, high=2)})
    assert [corner.name for corner in corners(space, 12)] == ["largest", "smallest"]


def test_what_says_how_long_is_short_and_the_rest_stays() -> None:
    training = {"max_steps": 5000, "num_epochs": 3, "batch_size": 8}
    tree = {"training": training, "steps": 200, "diffusion": {"steps": 50}, "epochs": 10}
    assert shortened(tree, 3) == {
        "training": {"max_steps": 3, "num_epochs": 1, "batch_size": 8},
        "steps": 3,
        "diffusion": {"steps": 50},
        "epochs": 1,
    }
