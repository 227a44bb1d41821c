"""What can be told of a sweep before anything is loaded: names, and files that are not there."""

from __future__ import annotations

from collections.abc import Mapping

from hpoctl.objectives.causal_lm import adapters, measures, models
from hpoctl.objectives.causal_lm.arguments import ALIASES, RUNGS
from hpoctl.objectives.causal_lm.text import Opened, check_searched, read_source
from hpoctl.objectives.causal_lm.typed import names_in
from hpoctl.objectives.causal_lm.values import check_names, group

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
    wanted: list[str],
    *,
    files: bool,
) -> None:
    """What a login node can tell of a sweep without loading torch: wrong names, missing files.

    `searched` has every group and name of the search space, `wanted` are the metrics; `files` says
    whether what workers will read is here too. Raises ValueError, or Infeasible where no trial can
    be.
    """
    check_names(args, GROUPS)
    check_names(searched, SEARCHED)
    for tree in (args, searched):
        training = group(tree, "training")
        check_names(training, _training_names() or [*training], "training.")
        adapters.check_light(group(tree, "lora"))
    check_names(group(searched, "model"), models.KNOWN, "model.")
    measures.check_metrics(wanted, measures.read(group(args, "measure")))
    for name in group(searched, "dataset"):
        check_searched(name)
    source, _ = read_source(group(args, "dataset"))
    check_names(group(args, "model"), models.KNOWN, "model.")
    models.check_fixed(group(args, "model"), group(searched, "model"))
    based = {"pretrained"} & {*group(args, "model"), *group(searched, "model")}
    if "lora" in {*args, *searched} and not based:
        raise ValueError(models.NO_BASE)
    if files:
        models.check(group(args, "model"))
        Opened(source)


def _training_names() -> list[str]:
    """All names that the group may have; none without transformers here: it cannot be told."""
    own = names_in("transformers", "training_args.py", "TrainingArguments")
    return [] if own is None else [*ALIASES, RUNGS, *own]
