"""What can be told of a sweep before anything is loaded: names, and files that are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpoctl.objectives.causal_lm import adapters, arguments, measures, models
from hpoctl.objectives.causal_lm.arguments import ALIASES, RUNGS
from hpoctl.objectives.causal_lm.text import Opened, check_searched, read_source, tokenizer
from hpoctl.objectives.causal_lm.typed import names_in, words_in
from hpoctl.objectives.causal_lm.values import check_names, each, group, share, whole

GROUPS = (
    "dataset",
    "model",
    "lora",
    "training",
    "measure",
    "save",
    "keep_checkpoint",
    "processes",
)
SEARCHED = ("model", "lora", "training", "dataset")


def check(
    args: Mapping[str, object],
    searched: Mapping[str, object],
    wanted: Mapping[str, Sequence[str]],
    *,
    files: bool,
) -> None:
    """What a login node can tell of a sweep without loading torch: wrong names, missing files.

    `searched` has every group and name of the search space, each with some of its values; `wanted`
    are the names that `metrics` and `constraints` give; `files` says whether what workers will read
    is here too. Raises ValueError, or Infeasible where no trial can be.
    """
    check_names(args, GROUPS)
    check_names(searched, SEARCHED)
    for tree in (args, searched):
        training = group(tree, "training")
        check_names(training, _training_names() or [*training], "training.")
        adapters.check_light(group(tree, "lora"))
    check_names(group(searched, "model"), models.KNOWN, "model.")
    for place, names in wanted.items():
        measures.check_metrics(names, measures.read(group(args, "measure")), place)
    for name in group(searched, "dataset"):
        check_searched(name)
    source, _ = read_source(group(args, "dataset"))
    check_names(group(args, "model"), models.KNOWN, "model.")
    models.check_fixed(group(args, "model"), group(searched, "model"))
    based = {"pretrained"} & {*group(args, "model"), *group(searched, "model")}
    if "lora" in {*args, *searched} and not based:
        raise ValueError(models.NO_BASE)
    _check_values(args, searched)
    if files:
        model = group(args, "model")
        models.check(model)
        bases = [value for name, value in each(searched, "model") if name == "pretrained"]
        for base in (model.get("pretrained"), *bases):
            tokenizer.check_folder(str(base or ""))
        Opened(source).check()


def _check_values(args: Mapping[str, object], searched: Mapping[str, object]) -> None:
    """Raises ValueError for a value that no trial can use, fixed or one of those searched."""
    words = {
        "optim": words_in("transformers", "training_args.py", "OptimizerNames"),
        "lr_scheduler_type": words_in("transformers", "trainer_utils.py", "SchedulerType"),
    }
    known = {field: found for field, found in words.items() if found}
    for name, value in (*group(args, "training").items(), *each(searched, "training")):
        arguments.check_early(name, value, known)
    for name, value in (*group(args, "lora").items(), *each(searched, "lora")):
        if name in ("r", "alpha"):
            whole(f"lora.{name}", value)
        elif name == "dropout":
            share("lora.dropout", value)
    for name, value in each(searched, "dataset"):
        read_source(group(args, "dataset"), {name: value})


def _training_names() -> list[str]:
    """All names that the group may have; none without transformers here: it cannot be told."""
    own = names_in("transformers", "training_args.py", "TrainingArguments")
    return [] if own is None else [*ALIASES, RUNGS, *own]
