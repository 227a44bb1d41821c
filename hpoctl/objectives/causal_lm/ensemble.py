"""Objective: the averaged predictions of saved models: what `hpoctl train --ensemble` runs.

`objective_args`:

    models:    folders of saved models, all with the tokenizer of the data
    dataset:   as in `causal_lm`; evaluated is the part that `evaluate_on` names
    searched:  values of `dataset` that a search has chosen; they win
    model:     only its `pretrained`, whose tokenizer the data has

A token's probability is the mean of the members' probabilities of it, with equal weights. Only
those of the tokens that are there are kept, so one model at a time is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.places import locate
from hpoctl.objectives.causal_lm.text import Corpus, collate, corpus, read_source
from hpoctl.objectives.causal_lm.values import check_names, group
from hpoctl.trial import Trial

if TYPE_CHECKING:
    from torch import Tensor

_KNOWN = ("models", "dataset", "searched", "model")
_ROWS = 16  # at once
_IGNORED = -100  # the label of a token that is not to be predicted


def objective(trial: Trial) -> dict[str, float]:
    """The ensemble's eval_loss and perplexity, and each member's own loss as `member_0_loss`.

    Losses are means over all tokens. Raises ValueError where a member has another tokenizer.
    """
    check_names(trial.args, _KNOWN)
    text, folders = _text(trial.args), _folders(trial.args)
    import torch

    torch.set_num_threads(trial.cpus)
    members = [_log_probabilities(folder, text) for folder in folders]
    together = torch.logsumexp(torch.stack(members), dim=0) - math.log(len(members))
    loss = -together.mean().item()
    own = {f"member_{i}_loss": -member.mean().item() for i, member in enumerate(members)}
    return {"eval_loss": loss, "perplexity": math.exp(min(loss, 700)), **own}


def _text(args: Mapping[str, object]) -> Corpus:
    source, how = read_source(group(args, "dataset"), group(args, "searched"))
    pretrained = group(args, "model").get("pretrained")
    return corpus(source, how, None if pretrained is None else locate(str(pretrained)))


def _folders(args: Mapping[str, object]) -> Sequence[str]:
    folders = args.get("models")
    if not isinstance(folders, list | tuple) or not folders:
        raise ValueError(f"models: is {folders!r}, but must be a list of folders")
    return [str(folder) for folder in folders]


def _log_probabilities(folder: str, text: Corpus) -> Tensor:
    """What one member thinks of each token of the data: the logarithm of its probability."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

    if AutoTokenizer.from_pretrained(folder).get_vocab() != text.tokenizer.get_vocab():
        raise ValueError(f"models: {folder} has another tokenizer: only alike ones are averaged")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    llm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, device_map=device)
    llm.train(False)
    rows, found = list(text.validation), []
    with torch.inference_mode():
        for first in range(0, len(rows), _ROWS):
            batch = {key: x.to(device) for key, x in collate(rows[first : first + _ROWS]).items()}
            labels = batch.pop("labels")[:, 1:]
            scores = llm(**batch).logits[:, :-1].float()
            known = torch.log_softmax(scores, dim=-1)
            picked = known.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
            found.append(picked[labels != _IGNORED].double().cpu())
    return torch.cat(found)
