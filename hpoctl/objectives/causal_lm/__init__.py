"""Objective: train a GPT-2 from its configuration on local text, and report its held-out loss.

`objective_args` (fixed) and the search space (searched; it wins) share these groups of values:

    model:     from_scratch: gpt2, num_layers, hidden_size, num_heads, ff_dim, dropout (`models`)
    training:  any field of transformers.TrainingArguments, and short names (`training`)

`objective_args` alone holds `dataset` (`text`), as the text is read once for all trials, and
`save: true`, which leaves the trained model and its tokenizer in `model/` of the trial's folder.

The worker calls `prepare` once and then forks a child for each trial, which calls `objective`.
So nothing that `prepare` does may start CUDA or a pool of threads: neither survives a fork.
These modules ask no hub for anything, and must not know the study or the batch system.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping

from hpoctl.objectives.causal_lm import models, ranks
from hpoctl.objectives.causal_lm.arguments import fields, rungs, training_arguments
from hpoctl.objectives.causal_lm.models import create_llm
from hpoctl.objectives.causal_lm.text import corpus, read_source
from hpoctl.objectives.causal_lm.training import create_trainer, run, save
from hpoctl.objectives.causal_lm.values import check_names, group
from hpoctl.trial import Trial

__all__ = ["create_llm", "objective", "prepare"]

_GROUPS = ("dataset", "model", "training", "save", "keep_checkpoint", "processes")
_SEARCHED = ("model", "training")
checkpoints = True  # a trial that was cut off goes on where it was


def prepare(args: Mapping[str, object]) -> None:
    """Do once, before any fork, what all trials share: imports, text, tokenizer.

    Raises ValueError where `args` cannot be used by any trial.
    """
    check_names(args, _GROUPS)
    models.family(group(args, "model"))
    source = read_source(group(args, "dataset"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the fork
    import torch

    torch.set_num_threads(1)  # with an OpenMP pool in the parent, a forked child hangs
    fields(group(args, "training"), {})
    ranks.count(args)
    # Named but not used: the import takes seconds, and every child inherits it.
    from transformers import GPT2LMHeadModel  # noqa: F401  # children inherit it

    from hpoctl.objectives.causal_lm import trainer  # noqa: F401  # children inherit it

    corpus(source)


def objective(trial: Trial) -> dict[str, float]:
    """Train one GPT-2; return its eval_loss, perplexity, parameters and train_seconds.

    Reports eval_loss at every evaluation. Raises ValueError or Infeasible, before any training, on
    values that cannot be used; Pruned; Checkpointed; and FloatingPointError where the loss is no
    number any more.
    """
    processes = ranks.count(trial.args)
    return _train(trial) if processes == 1 else ranks.spread(trial, processes, _train)


def _train(trial: Trial) -> dict[str, float]:
    """The objective, on one rank."""
    check_names(trial.args, _GROUPS)
    check_names(trial.params, _SEARCHED)
    model = {
        **models.family(group(trial.args, "model")),
        **models.family(group(trial.params, "model")),
    }
    models.sizes(model)
    source = read_source(group(trial.args, "dataset"))
    training = fields(group(trial.args, "training"), group(trial.params, "training"))
    import torch
    from transformers import set_seed

    torch.set_num_threads(trial.cpus)
    made = training_arguments(training, trial, ranks.world_of(trial))
    text = corpus(source)
    set_seed(trial.seed)
    vocab_size = text.tokenizer.get_vocab_size()
    llm = models.build(model, vocab_size=vocab_size, block_size=source.block_size)
    trainer = create_trainer(llm, text, made, trial, rungs(training))
    trained = run(trainer)
    loss = trained.eval_loss
    if trial.args.get("save"):
        save(trainer, text.tokenizer, trial.dir / "model")
    if not trial.args.get("keep_checkpoint"):
        trainer.tidy()
    return {
        "eval_loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,  # e**710 is no float
        "parameters": float(llm.num_parameters()),
        "train_seconds": trained.seconds,
    }
