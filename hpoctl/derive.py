"""A sweep made of another one: what follows a search, or comes before it, runs as any sweep does.

Pure: the keys of a sweep file in, the text of another one out. So queue, arrays, walltime, retries,
ledger and logs are those of every sweep; there is no second way to run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpoctl import config
from hpoctl.errors import ConfigError
from hpoctl.space import Params, nest
from hpoctl.words import BackendName, OriginKind

Tree = Mapping[str, object]

CAUSAL_LM = "hpoctl.objectives.causal_lm"
ENSEMBLE = f"{CAUSAL_LM}.ensemble"
MEASURED = "hpoctl.objectives.measured"
# What belongs to the search itself, and not to a list of known points.
_OF_THE_SEARCH = ("start", "sampler", "pruner", "mode", "budget", "study", "origin", "stop_after")
_OF_A_WHOLE_RUN = (  # of `training`: what three steps have no use for, or would be long by
    *("rungs", "steps", "eval_steps", "save_steps", "checkpoint_every", "save_strategy"),
    *("load_best_model_at_end", "metric_for_best_model"),
)
_LENGTHS = ("max_length", "block_size")  # of a row of the data
_LAST = ("objective", "command", "objective_args", "search_space")


def is_causal_lm(tree: Tree) -> bool:
    """Whether the objective is the one that comes along for language models."""
    return str(tree.get("objective", "")).partition(":")[0] == CAUSAL_LM


def confirm(
    tree: Tree, points: Sequence[Params], origin: Tree, *, study: str, repeats: int
) -> dict[str, object]:
    """The points again, each with the same `repeats` seeds, none of which the search has used.

    Every trial runs to its end: there is no pruner.
    """
    seed = tree.get("seed", 0)
    assert isinstance(seed, int), "validated"
    derived = _list_of(tree, points, origin, study)
    derived["sampler"] = {**_mapping(derived["sampler"]), "repeats": repeats}
    return {**derived, "seed": seed + 1}


def final(tree: Tree, points: Sequence[Params], origin: Tree, *, study: str) -> dict[str, object]:
    """One training to keep for each point, on all data that it may be trained on.

    `causal_lm` is told what that means; any other objective gets `final: true`.
    """
    told: Tree = {"final": True}
    if is_causal_lm(tree):
        _refuse_without_test(tree)
        told = {"dataset": {"train_on": "all", "evaluate_on": "test"}, "save": True}
        if "evaluate_on" in _dataset(tree):
            told = {"save": True}
    derived = _list_of(tree, points, origin, study)
    args = merged(_mapping(tree.get("objective_args", {})), told)
    return {**derived, "objective_args": args}


def _refuse_without_test(tree: Tree) -> None:
    """Raises ConfigError where the search has kept no text for the test."""
    dataset = _dataset(tree)
    if "evaluate_on" not in dataset and not {"test", "test_share", "hub"} & set(dataset):
        raise ConfigError(
            "objective_args.dataset: has neither 'test' nor 'test_share', so the search has seen"
            " all of it; '--set objective_args.dataset.evaluate_on=validation' trains as the search"
            " did, and evaluates on what that was judged by"
        )


def ensemble(
    tree: Tree, models: Sequence[str], points: Sequence[Params], origin: Tree, *, study: str
) -> dict[str, object]:
    """One trial that averages the predictions of saved models on the test split.

    `points` are those of the models, the winner's first: where the search has groups of the data
    too, the winner's hold for the test, but no row is longer than each model can read.
    """
    args = _mapping(tree.get("objective_args", {}))
    groups = [_mapping(nest(point).get("dataset", {})) for point in points]
    searched = dict(groups[0])
    for name in _LENGTHS:
        lengths = [int(str(group[name])) for group in groups if name in group]
        searched |= {name: min(lengths)} if lengths else {}
    winner = _mapping(nest(points[0]).get("model", {}))
    model = merged(_mapping(args.get("model", {})), winner)
    pretrained = model.get("pretrained")
    derived = _list_of(tree, [{"models": len(models)}], origin, study)
    derived.pop("constraints", None)
    return {
        **derived,
        "objective": ENSEMBLE,
        "objective_args": {
            "models": [*models],
            "dataset": merged({"evaluate_on": "test"}, _dataset(tree)),
            "searched": searched,
            "model": {} if pretrained is None else {"pretrained": pretrained},
        },
        "metrics": [{"name": "eval_loss", "goal": "minimize"}],
        "search_space": {"models": {"type": "categorical", "values": [len(models)]}},
    }


def short(
    tree: Tree,
    points: Sequence[Params],
    origin: Tree,
    *,
    study: str,
    steps: int,
    limit_gb: float | None,
    rising: str | None = None,
) -> dict[str, object]:
    """A few steps at each point, one after the other, measured; in a journal of its own.

    A parameter that is `rising` from point to point may leave the search's range; once a point does
    not fit, those after it are skipped.
    """
    args = _mapping(tree.get("objective_args", {}))
    of: dict[str, object] = {
        key: tree[key] for key in ("objective", "command", "metrics") if key in tree
    }
    of["args"] = merged(args, {"max_steps": steps})
    if is_causal_lm(tree):
        training = _mapping(args.get("training", {}))
        kept = {key: value for key, value in training.items() if key not in _OF_A_WHOLE_RUN}
        few = {"max_steps": steps, "eval_strategy": "no"}
        of["args"] = {**args, "training": {**kept, **few}, "save": False}
    measured: dict[str, object] = {"of": of, "steps": steps, "rising": rising is not None}
    if limit_gb is not None:
        measured["limit_gb"] = limit_gb
    space = _mapping(tree["search_space"])
    if rising is not None:
        values = [point[rising] for point in points]
        space = _with(space, rising, {"type": "categorical", "values": values})
    measured["on_gpu"] = not str(_mapping(tree.get("resources", {})).get("gpus", 0)).endswith("0")
    derived = _list_of(tree, points, origin, study)
    for key in ("command", "storage", "workers", "constraints", "estimate"):
        derived.pop(key, None)
    return {
        **derived,
        "objective": MEASURED,
        "objective_args": measured,
        "metrics": [{"name": "peak_gb", "goal": "minimize"}],
        "search_space": space,
        "mode": "sequential",
        "on": {"cuda_oom": "fail", "host_oom": "fail"},
        "stop_after": 0,
    }


def text(tree: Tree, name: str, overrides: Sequence[str] = ()) -> str:
    """The sweep file of a tree, with overrides. Raises ConfigError where it is not valid."""
    whole = config.read(config.dump(tree), name, overrides)
    written = config.dump({key: value for key, value in whole.items() if value is not None})
    config.parse(written, name)
    return written


def merged(tree: Tree, changes: Tree) -> dict[str, object]:
    """The tree with the leaves of `changes` in it."""
    whole = dict(tree)
    for key, value in changes.items():
        below = whole.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        whole[key] = merged(_mapping(below), _mapping(value)) if both else value
    return whole


def _list_of(tree: Tree, points: Sequence[Params], origin: Tree, study: str) -> dict[str, object]:
    """The keys of a sweep that runs these points, on Slurm a task each; the longest come last."""
    first = {key: value for key, value in tree.items() if key not in (*_OF_THE_SEARCH, *_LAST)}
    here = tree.get("backend") == BackendName.LOCAL  # where no walltime asks for short tasks
    if here and first.get("workers") is None:
        first["workers"] = 1
    if here or tree.get("mode") != "batch":
        first.pop("trials_per_task", None)
    return {
        "study": study,
        "origin": dict(origin),
        **first,
        "mode": "async" if here else "batch",
        **{key: tree[key] for key in _LAST if key in tree},
        "sampler": {"name": "manual", "points": [nest(point) for point in points]},
    }


def origin(
    kind: OriginKind,
    study: str,
    *,
    run_dir: str | None = None,
    trials: Sequence[int] = (),
    values: Sequence[float] = (),
    by: str | None = None,
    output: str | None = None,
    commit: str | None = None,
) -> dict[str, object]:
    """The key `origin` of a derived sweep: of which study, and of which trials of it."""
    known = {
        "kind": str(kind),
        "study": study,
        "run_dir": run_dir,
        "trials": [*trials],
        "values": [*values],
        "by": by,
        "output": output,
        "commit": commit,
    }
    return {key: value for key, value in known.items() if value not in (None, [])}


def _dataset(tree: Tree) -> Tree:
    return _mapping(_mapping(tree.get("objective_args", {})).get("dataset", {}))


def _mapping(node: object) -> Tree:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{node!r} stands where a group of keys and values is expected")
    return node


def _with(tree: Tree, name: str, leaf: Tree) -> Tree:
    """The tree with this leaf at the end of a dotted path, whatever stands there."""
    first, _, rest = name.partition(".")
    return {**tree, first: _with(_mapping(tree.get(first, {})), rest, leaf) if rest else leaf}
