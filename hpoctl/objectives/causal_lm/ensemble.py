"""Objective: the averaged predictions of saved models: what `hpoctl train --ensemble` runs.

`objective_args`:

    models:    folders of saved models, all with the tokenizer of the data
    dataset:   as in `causal_lm`; evaluated is the part that `evaluate_on` names
    searched:  values of `dataset` that a search has chosen; they win
    model:     only its `pretrained`, whose tokenizer the data has

The probability of a token is the mean of the members' probabilities of it, with equal weights.
Source: https://arxiv.org/abs/1612.01474
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.text import Corpus, corpus, read_source
from hpoctl.objectives.causal_lm.values import check_names, group
from hpoctl.trial import Trial

_KNOWN = ("models", "dataset", "searched", "model")


def objective(trial: Trial) -> dict[str, float]:
    """The ensemble's eval_loss, perplexity and eval_accuracy, and what each member has of its own,
    as `member_0_eval_loss`.

    They are means over all tokens. Raises ValueError where a member has another tokenizer, or reads
    fewer tokens than a row of the text has.
    """
    check_names(trial.args, _KNOWN)
    text, folders = _text(trial.args), _folders(trial.args)
    import torch

    from hpoctl.objectives.causal_lm import averaging

    torch.set_num_threads(trial.cpus)
    members = [averaging.member(folder, text) for folder in folders]
    together, own = averaging.evaluate(members, text)
    return {
        **together,
        **{f"member_{i}_{name}": own[i][name] for i in range(len(own)) for name in own[i]},
    }


def _text(args: Mapping[str, object]) -> Corpus:
    source, how = read_source(group(args, "dataset"), group(args, "searched"))
    pretrained = group(args, "model").get("pretrained")
    return corpus(source, how, None if pretrained is None else locate(str(pretrained)))


def _folders(args: Mapping[str, object]) -> Sequence[str]:
    folders = args.get("models")
    if not isinstance(folders, list | tuple) or not folders:
        raise ValueError(f"models: is {folders!r}, but must be a list of folders")
    return [str(folder) for folder in folders]
