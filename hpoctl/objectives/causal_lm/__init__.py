"""Objective: train a GPT-2 from its configuration on local text, and report its held-out loss.

`objective_args` (fixed) and the search space (searched; it wins) share these groups of values:

    model:     from_scratch: gpt2, num_layers, hidden_size, num_heads, ff_dim, dropout (`models`)
    training:  any field of transformers.TrainingArguments, and short names (`training`)
    dataset:   which text, and how it is cut (`text`); only the latter may be searched

`objective_args` alone holds `save: true`, which leaves the trained model and its tokenizer in
`model/` of the trial's folder.

The worker calls `prepare` once and then forks a child for each trial, which calls `objective`.
So nothing that `prepare` does may start CUDA or a pool of threads: neither survives a fork.
These modules ask no hub for anything, and must not know the study or the batch system.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from hpoctl.objectives.causal_lm import footprint, measures, models, ranks
from hpoctl.objectives.causal_lm.arguments import fields, rungs, training_arguments
from hpoctl.objectives.causal_lm.models import create_llm
from hpoctl.objectives.causal_lm.text import corpus, read_source
from hpoctl.objectives.causal_lm.training import create_trainer, run, save
from hpoctl.objectives.causal_lm.values import check_names, group
from hpoctl.trial import Trial

__all__ = ["create_llm", "objective", "prepare"]

_GROUPS = ("dataset", "model", "training", "measure", "save", "keep_checkpoint", "processes")
_SEARCHED = ("model", "training", "dataset")
checkpoints = True  # a trial that was cut off goes on where it was


def prepare(args: Mapping[str, object]) -> None:
    """Do once, before any fork, what all trials share: imports, text, tokenizer.

    Raises ValueError or Infeasible where `args` cannot be used by any trial.
    """
    check_names(args, _GROUPS)
    models.family(group(args, "model"))
    measure = measures.read(group(args, "measure"))
    source, how = read_source(group(args, "dataset"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the fork
    import torch

    torch.set_num_threads(1)  # with an OpenMP pool in the parent, a forked child hangs
    fields(group(args, "training"), {})
    ranks.count(args)
    # Named but not used: the import takes seconds, and every child inherits it.
    from transformers import GPT2LMHeadModel  # noqa: F401  # children inherit it

    from hpoctl.objectives.causal_lm import results  # noqa: F401  # children inherit it

    corpus(source, how)
    if measure.kl not in (None, "base"):
        from hpoctl.objectives.causal_lm import teacher, trained

        trained.load(teacher.KEY, measure.kl)


def objective(trial: Trial) -> dict[str, float]:
    """Train one GPT-2; return what was measured of it (`measures`).

    Reports the sweep's first metric at every evaluation. Raises ValueError or Infeasible, before
    any training, on values that cannot be used; Pruned; Checkpointed; and FloatingPointError where
    the loss is no number any more.
    """
    processes = ranks.count(trial.args)
    return _train(trial) if processes == 1 else ranks.spread(trial, processes, _train)


def _train(trial: Trial) -> dict[str, float]:
    """The objective, on one rank."""
    began = time.monotonic()
    footprint.reset_peaks()
    check_names(trial.args, _GROUPS)
    measure = measures.read(group(trial.args, "measure"))
    measures.check_metrics(trial.metrics, measure)
    check_names(trial.params, _SEARCHED)
    model = {
        **models.family(group(trial.args, "model")),
        **models.family(group(trial.params, "model")),
    }
    models.sizes(model)
    source, how = read_source(group(trial.args, "dataset"), group(trial.params, "dataset"))
    training = fields(group(trial.args, "training"), group(trial.params, "training"))
    import torch
    from transformers import set_seed

    from hpoctl.objectives.causal_lm import results

    torch.set_num_threads(trial.cpus)
    made = training_arguments(training, trial, ranks.world_of(trial))
    text = corpus(source, how)
    set_seed(trial.seed)
    vocab_size = len(text.tokenizer)
    llm = models.build(model, vocab_size=vocab_size, block_size=how.max_length)
    teacher = results.prepare(measure, model, llm, text)
    trainer = create_trainer(llm, text, made, trial, rungs(training))
    trainer.follower.meter.began = began
    trained = run(trainer)
    found = results.collect(trainer, trained, llm, text, measure, teacher)
    if trial.args.get("save"):  # the last: saving may merge an adapter into the weights
        save(trainer, text.tokenizer, trial.dir / "model")
    if not trial.args.get("keep_checkpoint"):
        trainer.tidy()
    return found
