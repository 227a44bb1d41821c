"""Objective: train a language model, from nothing or a trained one, and report its held-out loss.

`objective_args` (fixed) and the search space (searched; it wins) share these groups of values:

    model:     from_scratch: gpt2, num_layers …, or pretrained: NAME, keep_layers … (`models`)
    lora:      any field of peft.LoraConfig: what is trained beside a frozen model (`adapters`)
    training:  any field of transformers.TrainingArguments, and short names (`training`)
    dataset:   which text, and how it is cut (`text`); only the latter may be searched

`objective_args` alone holds `save: true`, which leaves the trained model and its tokenizer in
`model/` of the trial's folder.

The worker calls `prepare` once and then forks a child for each trial, which calls `objective`.
So nothing that `prepare` does may start CUDA or a pool of threads: neither survives a fork.
Only `model.pretrained` asks the hub. These modules must not know the study or the batch system.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from hpoctl.objectives.causal_lm import adapters, footprint, measures, models, ranks
from hpoctl.objectives.causal_lm.arguments import fields, rungs, training_arguments
from hpoctl.objectives.causal_lm.checks import GROUPS, SEARCHED, check
from hpoctl.objectives.causal_lm.origins import write_origins
from hpoctl.objectives.causal_lm.scratch import create_llm
from hpoctl.objectives.causal_lm.text import corpus, read_source, tokens_known
from hpoctl.objectives.causal_lm.training import create_trainer, run
from hpoctl.objectives.causal_lm.values import check_names, group
from hpoctl.trial import Trial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["check", "create_llm", "objective", "prepare", "shapes"]

checkpoints = True  # a trial that was cut off goes on where it was
_OF_ANY_SHAPE = (
    "model.dropout",
    *("lora.alpha", "lora.lora_alpha", "lora.dropout", "lora.lora_dropout"),
)
_SHAPES = ("dataset.max_length", "dataset.block_size", "training.optim", "training.optimizer")


def shapes(name: str) -> bool:
    """Whether a parameter says which weights there are, and which state of an optimiser.

    Who goes on from another trial's has the same value of it.
    """
    of_weights = name.startswith(("model.", "lora.")) and name not in _OF_ANY_SHAPE
    return of_weights or name in _SHAPES


def prepare(args: Mapping[str, object]) -> None:
    """Do once, before any fork, what all trials share: imports, text, tokenizer, trained weights.

    Raises ValueError or Infeasible where `args` cannot be used by any trial.
    """
    check_names(args, GROUPS)
    models.check(group(args, "model"))
    measure = measures.read(group(args, "measure"))
    source, how = read_source(group(args, "dataset"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the fork
    import torch

    torch.set_num_threads(1)  # with an OpenMP pool in the parent, a forked child hangs
    fields(group(args, "training"), {})
    if (lora := adapters.of(args)) is not None:
        adapters.read_lora(lora)
    ranks.count(args)
    # Named but not used: the import takes seconds, and every child inherits it.
    from transformers import GPT2LMHeadModel  # noqa: F401  # children inherit it

    from hpoctl.objectives.causal_lm import results  # noqa: F401  # children inherit it

    models.prepare(group(args, "model"))
    corpus(source, how, models.tokenizer(group(args, "model")))
    if measure.kl not in (None, "base"):
        from hpoctl.objectives.causal_lm import teacher, trained

        trained.load(teacher.KEY, measure.kl)


def objective(trial: Trial) -> dict[str, float]:
    """Train one model; return what was measured of it (`measures`).

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
    check_names(trial.args, GROUPS)
    measure = measures.read(group(trial.args, "measure"))
    measures.check_metrics(trial.metrics, measure)
    check_names(trial.params, SEARCHED)
    values = {**group(trial.args, "model"), **group(trial.params, "model")}
    model = models.read(values, adapters.of(trial.args, trial.params))
    source, how = read_source(group(trial.args, "dataset"), group(trial.params, "dataset"))
    training = fields(group(trial.args, "training"), group(trial.params, "training"))
    import torch
    from transformers import set_seed

    from hpoctl.objectives.causal_lm import results

    torch.set_num_threads(trial.cpus)
    made = training_arguments(training, trial, ranks.world_of(trial))
    # What does not fit ends here: before data are cut for it, and weights are read.
    place, room = models.tokenizer(values), models.room(model, block_size=how.max_length)
    models.check_vocabulary(model, room, tokens_known(source, place))
    text = corpus(source, how, place)
    set_seed(trial.seed)
    llm = models.build(model, vocab_size=len(text.tokenizer), block_size=how.max_length)
    measured = cast("PreTrainedModel", llm)  # what peft wraps answers as the model itself
    teacher = results.prepare(measure, values, measured, text)
    used = {"model": values.get("pretrained"), "teacher": measure.kl}
    write_origins(trial.dir, used, source, text)
    trainer = create_trainer(llm, text, made, trial, rungs(training))
    trainer.follower.meter.began = began
    trained = run(trainer)
    found = results.collect(trainer, trained, measured, text, measure, teacher)
    if trial.args.get("save") and trainer.is_world_process_zero():
        models.save(llm, model, trial.dir / "model")  # the last: it may merge an adapter
        text.tokenizer.save_pretrained(trial.dir / "model")
    if not (trial.args.get("keep_checkpoint") or trial.hands_on):
        trainer.tidy()
    return found
