"""The group `training` as TrainingArguments: every name and value is checked before a model is.

`fields` reads names and types, in the worker before it forks; it touches no device.
`training_arguments` makes the TrainingArguments of one trial, in its own process.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hpoctl.objectives.causal_lm.typed import (
    Field,
    check_number,
    check_word,
    fields_of,
    naming_a_field,
)
from hpoctl.objectives.causal_lm.values import check_names, share, whole
from hpoctl.trial import Trial

if TYPE_CHECKING:
    from transformers import TrainingArguments

ALIASES = {  # what people write -> the field of TrainingArguments
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "steps": "max_steps",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "schedule": "lr_scheduler_type",
    "optimizer": "optim",
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation": "gradient_accumulation_steps",
    "label_smoothing": "label_smoothing_factor",
    "warmup_ratio": "warmup_steps",  # transformers 5: a number below 1 is a share of all steps
    "checkpoint_every": "save_steps",
}
_SET_HERE = {
    "output_dir": "the trial's folder",
    "seed": "the trial's seed",
    "resume_from_checkpoint": "the trial's last checkpoint",
    "save_total_limit": "one checkpoint, the latest, and the best one if it is asked for",
    "save_only_model": "false, so that a trial can go on from its checkpoint",
    "enable_jit_checkpoint": "false: a trial is asked to save itself by its worker",
}
RUNGS = "rungs"
_BY_RUNGS = ("max_steps", "num_train_epochs", "eval_steps", "eval_strategy")
_RANGES: Mapping[str, tuple[float, float]] = {  # what transformers would take, or miss late
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "warmup_steps": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "neftune_noise_alpha": (0, math.inf),
    "per_device_train_batch_size": (1, math.inf),
    "per_device_eval_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "num_train_epochs": (0, math.inf),
    "max_steps": (-1, math.inf),
    "dataloader_num_workers": (0, math.inf),
}


def fields(fixed: Mapping[str, object], searched: Mapping[str, object]) -> dict[str, object]:
    """Fields of TrainingArguments and their values, without aliases, and `rungs`; `searched` wins.

    Raises ValueError for a name or a value that no training can use.
    """
    known = _fields()
    merged: dict[str, object] = {}
    for group in (fixed, searched):
        check_names(group, [*ALIASES, RUNGS, *known], "training.")
        named: dict[str, object] = {}
        for name, value in group.items():
            field = ALIASES.get(name, name)
            if name in _SET_HERE:
                raise ValueError(f"training.{name}: is always {_SET_HERE[name]}: leave it out")
            if field in named:
                raise ValueError(f"training.{name}: '{field}' is given twice, under two names")
            if name == "warmup_ratio":
                share("training.warmup_ratio", value)
            if name == RUNGS:
                named[field] = _rungs(value)
            else:
                checked = known[field].checked(f"training.{name}", value)
                named[field] = _in_range(name, field, checked)
        merged.update(named)
    for name in _BY_RUNGS:
        if RUNGS in merged and name in merged:
            raise ValueError(f"training.{name}: leave it out: the last of training.rungs says it")
    return merged


def check_early(name: str, value: object, words: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a value that can be told to be wrong without transformers.

    `words` are those that a field may have, by its name.
    """
    field = ALIASES.get(name, name)
    if name in _SET_HERE:
        raise ValueError(f"training.{name}: is always {_SET_HERE[name]}: leave it out")
    if name == RUNGS:
        _rungs(value)
    if field in words and isinstance(value, str):
        check_word(f"training.{name}", value, words[field])
    if field in _RANGES and value is not None:
        check_number(f"training.{name}", value)
        _in_range(name, field, value)


@functools.cache
def _fields() -> Mapping[str, Field]:
    from transformers import TrainingArguments

    return fields_of(TrainingArguments)


def _rungs(value: object) -> tuple[int, ...]:
    """Steps at which one run is evaluated, each later than the one before; it ends at the last."""
    steps = value if isinstance(value, list | tuple) else [value]
    found = tuple(whole("training.rungs", step) for step in steps)
    if not found or any(one >= next_one for one, next_one in itertools.pairwise(found)):
        raise ValueError(f"training.rungs: is {value!r}, but must be growing steps: [100, 500]")
    return found


def _in_range(name: str, field: str, value: object) -> object:
    low, high = _RANGES.get(field, (-math.inf, math.inf))
    if isinstance(value, int | float) and not low <= value <= high:
        below = "" if math.isinf(high) else f" to {high:g}"
        raise ValueError(f"training.{name}: is {value!r}, but must be from {low:g}{below or ' on'}")
    return value


def training_arguments(
    training: Mapping[str, object], trial: Trial, processes: int
) -> TrainingArguments:
    """The TrainingArguments of a trial, with defaults that suit one: evaluations, no bars.

    Raises ValueError where this machine or transformers cannot use the values.
    """
    from transformers import TrainingArguments

    given = {name: value for name, value in training.items() if name != RUNGS}
    for name in ("fp16", "fp16_full_eval"):
        if given.get(name) and not _has_gpu():
            raise ValueError(f"training.{name}: needs a GPU, and there is none: try bf16")
    make: Callable[..., TrainingArguments] = TrainingArguments
    try:
        made = make(**_defaults(training, processes), **given | _fixed(trial))
        _check_optimizer(made)
        _check_schedule(made)
    except ValueError as wrong:
        raise ValueError(naming_a_field("training", _fields(), str(wrong))) from wrong
    return made


def rungs(training: Mapping[str, object]) -> tuple[int, ...]:
    """The rungs of `fields`; none where there are none."""
    found = training.get(RUNGS, ())
    assert isinstance(found, tuple)
    return found


def _fixed(trial: Trial) -> dict[str, object]:
    return {"output_dir": str(trial.dir), "seed": trial.seed}


def _defaults(training: Mapping[str, object], processes: int) -> dict[str, object]:
    """What is not given, and says itself by what is."""
    found: dict[str, object] = {
        "eval_strategy": "steps",
        "eval_steps": 0.1,  # a share of all steps
        "per_device_eval_batch_size": 32,
        "save_strategy": "no",
        "use_cpu": not _has_gpu(),  # not said, bf16 is refused
        "report_to": "none",
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,  # it would hide batches that diverge
        "dataloader_pin_memory": _has_gpu(),  # without one, torch warns
    }
    if steps := rungs(training):
        # The schedule is that of the whole run, so that who reaches a rung is where all were.
        found |= {"max_steps": steps[-1], "eval_steps": steps[-1]}
    if training.get("load_best_model_at_end"):
        found["save_strategy"] = "best"
    elif "save_steps" in training:
        found["save_strategy"] = "steps"
    if processes > 1:
        found["ddp_find_unused_parameters"] = False  # every layer of a language model is used
        if found["use_cpu"]:
            found["ddp_backend"] = "gloo"
    found["logging_strategy"] = training.get("eval_strategy", found["eval_strategy"])
    found["logging_steps"] = training.get("eval_steps", found["eval_steps"])
    return {name: value for name, value in found.items() if name not in training}


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or torch.xpu.is_available()


def _check_optimizer(made: TrainingArguments) -> None:
    """Raises ValueError where the optimiser's package is not installed."""
    from transformers import Trainer

    try:
        Trainer.get_optimizer_cls_and_kwargs(made)
    except (ImportError, importlib.metadata.PackageNotFoundError) as missing:
        name = getattr(made.optim, "value", made.optim)
        raise ValueError(f"training.optim: '{name}': {missing}") from missing
    except ValueError as wrong:
        if "model" not in str(wrong):  # some ask for the model, which does not exist yet
            raise


def _check_schedule(made: TrainingArguments) -> None:
    """Raises ValueError where the schedule does not take its `lr_scheduler_kwargs`."""
    import torch
    from transformers import get_scheduler

    trial_run = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    get: Callable[..., object] = get_scheduler
    try:
        get(
            made.lr_scheduler_type,
            trial_run,
            num_warmup_steps=1,
            num_training_steps=2,
            scheduler_specific_kwargs=made.lr_scheduler_kwargs or {},
        )
    except (TypeError, ValueError) as wrong:
        name = getattr(made.lr_scheduler_type, "value", made.lr_scheduler_type)
        raise ValueError(f"training.lr_scheduler_kwargs: '{name}': {wrong}") from wrong
