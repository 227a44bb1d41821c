"""What a trial returns: everything that was measured of it, by name, each a float.

Imports torch and transformers at once, so import it inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from transformers import PreTrainedModel

from hpoctl.objectives.causal_lm import adapters, footprint, latency, models, teacher
from hpoctl.objectives.causal_lm.measures import Measure
from hpoctl.objectives.causal_lm.text import Corpus
from hpoctl.objectives.causal_lm.trainer import TrialTrainer
from hpoctl.objectives.causal_lm.training import Trained

if TYPE_CHECKING:
    from peft import PeftModel


def prepare(
    measure: Measure, model: Mapping[str, object], llm: PreTrainedModel, text: Corpus
) -> str | None:
    """The teacher's name; None where the model is its own, without adapters, or there is no KL.

    Raises ValueError where something cannot be measured, so that it costs no training.
    """
    if measure.latency is not None:
        latency.check(llm, measure.latency)
    if measure.kl is None:
        return None
    alone = hasattr(llm, "peft_config") and adapters.keeps_base(cast("PeftModel", llm))
    name = teacher.named(measure.kl, model.get("pretrained"), adapted=alone)
    if name is not None:
        teacher.check_vocabulary(
            name,
            text.tokenizer.get_vocab(),
            size=llm.config.vocab_size,
            length=max(len(row["input_ids"]) for row in text.validation),
        )
    return name


def collect(
    trainer: TrialTrainer,
    trained: Trained,
    llm: PreTrainedModel,
    text: Corpus,
    measure: Measure,
    teacher_name: str | None,
) -> dict[str, float]:
    """The metrics of a training that has ended and was evaluated."""
    latest = {name: value for log in trainer.state.log_history for name, value in log.items()}
    memory = footprint.peaks()  # before what is measured beyond: it is the training's
    found = {
        "eval_loss": latest["eval_loss"],
        "perplexity": latest["eval_perplexity"],
        "eval_accuracy": latest["eval_accuracy"],
        **footprint.sizes(llm),
        **models.parameters(llm),
        **memory,
    }
    if measure.kl is not None:
        found["kl"] = teacher.kl(trainer, llm, teacher_name)
    if measure.latency is not None:
        rows = (row["input_ids"].tolist() for row in text.validation)
        found.update(latency.measure(llm, rows, measure.latency))
    meter = trainer.follower.meter.read()
    stepping = meter.train_s - meter.evaluate_s
    return {
        **found,
        "tokens_per_second": trained.tokens / stepping if stepping else 0.0,
        "samples_per_second": trained.rows / stepping if stepping else 0.0,
        "train_seconds": trained.seconds,
        "gpu_hours": meter.trial_s * footprint.gpus() / 3600,
    }
