"""Objective: train a GPT-2 from its configuration on local text, and report its held-out loss.

`objective_args` (fixed) and the search space (searched; it wins) share two groups of values:

    model:     from_scratch: gpt2, num_layers, hidden_size, num_heads, ff_dim, dropout
    training:  any field of transformers.TrainingArguments, and the short names in `_ALIASES`

`objective_args` alone holds `dataset`, as the text is read once for all trials, and `save: true`,
which leaves the trained model and its tokenizer in `model/` of the trial's folder.

The worker calls `prepare` once and then forks a child for each trial, which calls `objective`.
So nothing that `prepare` does may start CUDA or a pool of threads: neither survives a fork.
This module asks no hub for anything, and must not know the study or the batch system.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpoctl.objectives._text import END, Corpus, Source, corpus
from hpoctl.trial import Pruned, Trial

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import GPT2LMHeadModel, Trainer, TrainerCallback, TrainerState

_GROUPS = ("dataset", "model", "training", "save")
_SIZES = {"num_layers": 12, "hidden_size": 768, "num_heads": 12}  # of the smallest GPT-2
_MODEL = ("from_scratch", "pretrained", *_SIZES, "ff_dim", "dropout")
_DATASET = ("builtin", *(field.name for field in dataclasses.fields(Source)))
_ALIASES = {  # what people write -> the field of TrainingArguments
    "batch_size": "per_device_train_batch_size",
    "num_epochs": "num_train_epochs",
    "gradient_clipping": "max_grad_norm",
    "warmup_ratio": "warmup_steps",  # transformers 5: a number below 1 is a share of all steps
}
_SET_HERE = {"output_dir": "the trial's folder", "seed": "the trial's seed"}


def prepare(args: Mapping[str, object]) -> None:
    """Do once, before any fork, what all trials share: imports, text, tokenizer.

    Raises ValueError where `args` cannot be used by any trial.
    """
    _check_names(args, _GROUPS)
    _family(_group(args, "model"))
    source = _source(_group(args, "dataset"))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the fork
    import torch

    torch.set_num_threads(1)  # with an OpenMP pool in the parent, a forked child hangs
    _training(_group(args, "training"), {})
    # Named but not used: the import takes seconds, and every child inherits it.
    from transformers import GPT2LMHeadModel, Trainer  # noqa: F401  # children inherit it

    corpus(source)


def objective(trial: Trial) -> dict[str, float]:
    """Train one GPT-2; return its eval_loss, perplexity, parameters and train_seconds.

    Reports eval_loss at every evaluation. Raises ValueError, before any training, on values that
    cannot be used; Pruned; and FloatingPointError where the loss is no number any more.
    """
    _check_names(trial.args, _GROUPS)
    _check_names(trial.params, ("model", "training"))
    model = {**_family(_group(trial.args, "model")), **_family(_group(trial.params, "model"))}
    sizes, dropout = _sizes(model), _share("model.dropout", model.get("dropout", 0.1))
    source = _source(_group(trial.args, "dataset"))
    training = _training(_group(trial.args, "training"), _group(trial.params, "training"))
    import torch
    from transformers import set_seed

    torch.set_num_threads(trial.cpus)
    text = corpus(source)
    set_seed(trial.seed)
    vocab_size = text.tokenizer.get_vocab_size()
    llm = create_llm(**sizes, vocab_size=vocab_size, block_size=source.block_size, dropout=dropout)
    trainer = _trainer(llm, text, training, trial)
    seconds, loss = _run(trainer)
    if trial.args.get("save"):
        _save(trainer, text.tokenizer, trial.dir / "model")
    return {
        "eval_loss": loss,
        "perplexity": math.exp(loss) if loss < 700 else math.inf,  # e**710 is no float
        "parameters": float(llm.num_parameters()),
        "train_seconds": seconds,
    }


def create_llm(
    num_layers: int,
    hidden_size: int,
    num_heads: int,
    ff_dim: int,
    vocab_size: int,
    *,
    block_size: int = 1024,
    dropout: float = 0.1,
) -> GPT2LMHeadModel:
    """An untrained GPT-2 of this architecture; `block_size` is the longest text in tokens."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=num_layers,
        n_embd=hidden_size,
        n_head=num_heads,
        n_inner=ff_dim,
        vocab_size=vocab_size,
        n_positions=block_size,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        resid_pdrop=dropout,
        bos_token_id=0,  # END, which is token 0
        eos_token_id=0,
    )
    llm = GPT2LMHeadModel(config)
    llm.loss_type = "ForCausalLM"  # transformers 5.23 guesses it from the class, and misses GPT-2
    return llm


def _trainer(
    llm: GPT2LMHeadModel, text: Corpus, training: Mapping[str, object], trial: Trial
) -> Trainer:
    """The Trainer, with defaults that suit a trial: evaluations, no checkpoints, no bars."""
    import torch
    from transformers import Trainer, TrainingArguments

    fields: dict[str, object] = {
        "eval_strategy": "steps",
        "eval_steps": 0.1,  # a share of all steps
        "per_device_eval_batch_size": 32,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),  # without a GPU, torch warns
        **training,
        "output_dir": str(trial.dir),
        "seed": trial.seed,
    }
    # The training loss is logged where an evaluation is due, to be reported with it.
    fields.setdefault("logging_strategy", fields["eval_strategy"])
    fields.setdefault("logging_steps", fields["eval_steps"])
    arguments: Callable[..., TrainingArguments] = TrainingArguments
    return Trainer(
        model=llm,
        args=arguments(**fields),
        train_dataset=text.train,
        eval_dataset=text.validation,
        data_collator=_collate,
        callbacks=[_reporter(trial)],
    )


def _collate(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of blocks; the model itself shifts the labels by one token."""
    import torch

    ids = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": ids, "labels": ids.clone()}


def _reporter(trial: Trial) -> TrainerCallback:
    """Hands every evaluation to the trial, and ends it where the trial says so."""
    from transformers import TrainerCallback, TrainerControl, TrainingArguments

    class Reporter(TrainerCallback):
        def on_evaluate(
            self,
            args: TrainingArguments,
            state: TrainerState,
            control: TrainerControl,
            **_: object,
        ) -> None:
            latest, step = _latest(state), state.global_step
            loss = latest["eval_loss"]
            if not math.isfinite(loss):
                raise FloatingPointError(f"eval_loss is {loss} at step {step}: training diverged")
            extra = {"train_loss": latest["loss"]} if "loss" in latest else {}
            trial.report(loss, step=step, **extra)
            # After the last step nothing is left to save, so the trial is complete.
            if step < state.max_steps and trial.should_prune():
                raise Pruned(f"at step {step} of {state.max_steps}, with eval_loss {loss:.4f}")

    return Reporter()


def _run(trainer: Trainer) -> tuple[float, float]:
    """Train to the end; the seconds that it took, evaluations included, and the last eval_loss."""
    seconds = float(trainer.train().metrics["train_runtime"])
    steps = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
    if trainer.state.global_step not in steps:
        trainer.evaluate()
    return seconds, _latest(trainer.state)["eval_loss"]


def _latest(state: TrainerState) -> dict[str, float]:
    return {name: value for log in state.log_history for name, value in log.items()}


def _save(trainer: Trainer, tokenizer: Tokenizer, folder: Path) -> None:
    """Leave what `from_pretrained(folder)` of a model and a tokenizer read."""
    from transformers import PreTrainedTokenizerFast

    trainer.save_model(str(folder))
    wrap: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
    wrap(tokenizer_object=tokenizer, bos_token=END, eos_token=END).save_pretrained(folder)


def _family(model: Mapping[str, object]) -> Mapping[str, object]:
    """`model` as given, if it can be built; the place for fine-tuning."""
    _check_names(model, _MODEL, "model.")
    if "pretrained" in model:
        raise ValueError("model.pretrained: fine-tuning is not built yet: use from_scratch: gpt2")
    if (family := model.get("from_scratch", "gpt2")) != "gpt2":
        raise ValueError(f"model.from_scratch: {family!r} is not known; known: gpt2")
    return model


def _sizes(model: Mapping[str, object]) -> dict[str, int]:
    """The sizes of an architecture, as `create_llm` takes them."""
    sizes = {name: _whole(f"model.{name}", model.get(name, size)) for name, size in _SIZES.items()}
    hidden_size, num_heads = sizes["hidden_size"], sizes["num_heads"]
    if hidden_size % num_heads:
        raise ValueError(
            f"model: hidden_size {hidden_size} cannot be divided among {num_heads} heads:"
            " let it be a multiple of num_heads"
        )
    return {**sizes, "ff_dim": _whole("model.ff_dim", model.get("ff_dim", 4 * hidden_size))}


def _source(dataset: Mapping[str, object]) -> Source:
    """`objective_args.dataset` as a value, defaults filled in."""
    _check_names(dataset, _DATASET, "dataset.")
    if ("path" in dataset) == ("builtin" in dataset):
        raise ValueError("dataset: give either 'path: file.jsonl' or 'builtin: pydoc'")
    if dataset.get("builtin", "pydoc") != "pydoc":
        raise ValueError(f"dataset.builtin: {dataset['builtin']!r} is not known; known: pydoc")
    limit = dataset.get("max_blocks")
    return Source(
        path=Path(str(dataset["path"])).expanduser() if "path" in dataset else None,
        text_column=str(dataset.get("text_column", "text")),
        validation_share=_share("dataset.validation_share", dataset.get("validation_share", 0.1)),
        block_size=_whole("dataset.block_size", dataset.get("block_size", 64), least=2),
        vocab_size=_whole("dataset.vocab_size", dataset.get("vocab_size", 2000), least=257),
        max_blocks=None if limit is None else _whole("dataset.max_blocks", limit, least=2),
    )


def _training(fixed: Mapping[str, object], searched: Mapping[str, object]) -> dict[str, object]:
    """Fields of TrainingArguments and their values, without aliases; `searched` wins."""
    from transformers import TrainingArguments

    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    merged: dict[str, object] = {}
    for group in (fixed, searched):
        _check_names(group, [*_ALIASES, *known], "training.")
        fields: dict[str, object] = {}
        for name, value in group.items():
            field = _ALIASES.get(name, name)
            if name in _SET_HERE:
                raise ValueError(f"training.{name}: is always {_SET_HERE[name]}: leave it out")
            if name == "warmup_ratio":
                _share("training.warmup_ratio", value)
            if field in fields:
                raise ValueError(f"training.{name}: '{field}' is given twice, under two names")
            fields[field] = value
        merged.update(fields)
    return merged


def _group(tree: Mapping[str, object], name: str) -> Mapping[str, object]:
    group = tree.get(name, {})
    if not isinstance(group, Mapping):
        raise ValueError(f"{name}: is {group!r}, but must be a group of names and values")
    return group


def _check_names(given: Mapping[str, object], known: Sequence[str], prefix: str = "") -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            every = f"known: {', '.join(known)}" if len(known) < 10 else "see TrainingArguments"
            hint = f"did you mean '{close[0]}'?" if close else every
            raise ValueError(f"{prefix}{name}: unknown; {hint}")


def _whole(name: str, value: object, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: is {value!r}, but must be a whole number from {least} on")
    return value


def _share(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name}: is {value!r}, but must be a share: from 0 to below 1")
    return value
