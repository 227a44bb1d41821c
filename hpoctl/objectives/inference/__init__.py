"""Objective: how well a trained model generates, by how it is made to generate.

`objective_args` holds the model and the text; the values of `inference` (`settings`) are fixed
there or searched:

    model:      pretrained: a folder or a name
    dataset:    as for causal_lm; its validation text gives prompts and what should follow them
    inference:  temperature, top_k, top_p, repetition_penalty, num_beams, max_new_tokens …
    measure:    perplexity: self, or a model that judges what was generated

The worker's `prepare` loads all of it once, so a trial costs its generation only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm import footprint
from hpoctl.objectives.causal_lm.measures import check_known
from hpoctl.objectives.causal_lm.origins import write_origins
from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.text import Corpus, Opened, corpus, read_source
from hpoctl.objectives.causal_lm.values import check_names, each, group
from hpoctl.objectives.inference import settings
from hpoctl.trial import Trial

if TYPE_CHECKING:
    from hpoctl.objectives.causal_lm.trained import Trained

__all__ = ["check", "objective", "prepare"]

_GROUPS = ("dataset", "model", "inference", "measure")
MEASURED = (
    *("exact_match", "token_f1", "rouge_l", "distinct_1", "distinct_2", "repetition"),
    *("new_tokens", "latency_s", "tokens_per_second", "memory_gb", "host_memory_gb"),
)
_ASKED_FOR = {"perplexity": "{perplexity: self}"}


def check(
    args: Mapping[str, object],
    searched: Mapping[str, object],
    wanted: Mapping[str, Sequence[str]],
    *,
    files: bool,
) -> None:
    """What a login node can tell of a sweep without loading torch. Raises ValueError."""
    check_names(args, _GROUPS)
    check_names(searched, ("inference",))
    settings.read(group(args, "inference"), {})
    check_names(group(searched, "inference"), settings.KNOWN, "inference.")
    for name, value in each(searched, "inference"):
        settings.read({}, {name: value})
    asked = [name for name, value in group(args, "measure").items() if value]
    for place, names in wanted.items():
        check_known(names, MEASURED, _ASKED_FOR, asked, place)
    source, _ = read_source(group(args, "dataset"))
    if files:
        Opened(source)


def prepare(args: Mapping[str, object]) -> None:
    """Do once, before any fork, what all trials share. Raises ValueError for unusable `args`."""
    check_names(args, _GROUPS)
    settings.read(group(args, "inference"), {})
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the fork
    import torch

    torch.set_num_threads(1)  # with an OpenMP pool in the parent, a forked child hangs
    from hpoctl.objectives.inference import results  # noqa: F401  # children inherit the import

    model = _model(args)
    text_of(args)
    _scorer(args, model)


def objective(trial: Trial) -> dict[str, float]:
    """Generate after each prompt; return how good, how varied and how fast that was.

    Raises ValueError or Infeasible, before anything is generated, on values that cannot be used.
    """
    footprint.reset_peaks()
    check_names(trial.args, _GROUPS)
    check_names(trial.params, ("inference",))
    how = settings.read(group(trial.args, "inference"), group(trial.params, "inference"))
    asked = group(trial.args, "measure")
    check_known(trial.metrics, MEASURED, _ASKED_FOR, [name for name in asked if asked[name]])
    import torch

    from hpoctl.objectives.inference import results

    torch.set_num_threads(trial.cpus)
    model = _model(trial.args)
    text, scorer = text_of(trial.args), _scorer(trial.args, model)
    source, _ = read_source(group(trial.args, "dataset"))
    used = {"model": group(trial.args, "model")["pretrained"], "scorer": asked.get("perplexity")}
    write_origins(trial.dir, used, source, text)
    if torch.cuda.is_available():
        for each in (model, scorer or model):
            llm: torch.nn.Module = each.llm
            llm.cuda()
    return results.collect(model, text.validation, scorer, how, trial.seed)


def _model(args: Mapping[str, object]) -> Trained:
    from hpoctl.objectives.causal_lm import trained

    given = group(args, "model")
    check_names(given, ("pretrained",), "model.")
    if "pretrained" not in given:
        raise ValueError("model.pretrained: is missing: name a trained model, or its folder")
    return trained.load("model.pretrained", str(given["pretrained"]))


def text_of(args: Mapping[str, object]) -> Corpus:
    """The text, in the tokens of the model's own tokenizer."""
    source, how = read_source(group(args, "dataset"))
    return corpus(source, how, locate(str(group(args, "model")["pretrained"])))


def _scorer(args: Mapping[str, object], model: Trained) -> Trained | None:
    from hpoctl.objectives.causal_lm import trained

    given = group(args, "measure")
    check_names(given, tuple(_ASKED_FOR), "measure.")
    name = given.get("perplexity")
    if name is None or name == "self":
        return None if name is None else model
    return trained.load("measure.perplexity", str(name))
