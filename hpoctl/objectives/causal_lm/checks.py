"""What can be told of a sweep before anything is loaded: names, and files that are not there."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from pathlib import Path

from hpoctl.objectives.causal_lm import adapters, measures, models
from hpoctl.objectives.causal_lm.arguments import ALIASES, RUNGS
from hpoctl.objectives.causal_lm.text import Opened, check_searched, read_source
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
        check_names(group(tree, "training"), _training_names(), "training.")
        check_names(group(tree, "lora"), adapters.KEYS, "lora.")
    check_names(group(searched, "model"), models.KNOWN, "model.")
    measures.check_metrics(wanted, measures.read(group(args, "measure")))
    for name in group(searched, "dataset"):
        check_searched(name)
    source, _ = read_source(group(args, "dataset"))
    check_names(group(args, "model"), models.KNOWN, "model.")
    if files:
        models.check(group(args, "model"), adapters.of(args))
        Opened(source)


def _training_names() -> list[str]:
    """All names that the group may have, without loading transformers: its source is read.

    Only the short ones where transformers is not installed here.
    """
    found = importlib.util.find_spec("transformers")
    own = [*ALIASES, RUNGS]
    if found is None or not found.submodule_search_locations:
        return own
    source = Path(found.submodule_search_locations[0], "training_args.py").read_text("utf-8")
    (defined,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments"
    )
    fields = (node.target for node in defined.body if isinstance(node, ast.AnnAssign))
    return [*own, *(field.id for field in fields if isinstance(field, ast.Name))]
