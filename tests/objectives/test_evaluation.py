"""What the Trainer of a trial says of its model, against plain torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hpoctl.objectives.causal_lm import create_llm
from hpoctl.objectives.causal_lm.evaluation import ExactTrainer, totals
from hpoctl.objectives.causal_lm.meter import Meter, Reading

Rows = Sequence[Mapping[str, list[int]]]
LENGTHS = (12, 3, 7, 12, 5)  # in batches of two: padding in each, and a short last batch


def rows(seed: int = 1) -> Rows:
    """Rows whose first two tokens are a prompt."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for length in LENGTHS:
        ids = torch.randint(1, 50, (length,), generator=generator).tolist()
        made.append({"input_ids": ids, "labels": [-100, -100, *ids[2:]]})
    return made


def padded(batch: Rows) -> dict[str, torch.Tensor]:
    longest = max(len(row["input_ids"]) for row in batch)

    def fill(name: str, value: int) -> torch.Tensor:
        return torch.tensor([r[name] + [value] * (longest - len(r[name])) for r in batch])

    ids = fill("input_ids", 0)
    return {"input_ids": ids, "labels": fill("labels", -100), "attention_mask": (ids != 0).long()}


def tiny(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    return create_llm(2, 16, 2, 32, 50, block_size=16, dropout=0.3)


def trainer(llm: PreTrainedModel, folder: Path, **given: object) -> ExactTrainer:
    arguments = {
        "output_dir": str(folder),
        "per_device_eval_batch_size": 2,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
        "save_strategy": "no",
        **given,
    }
    return ExactTrainer(
        model=llm,
        args=TrainingArguments(**arguments),  # type: ignore[arg-type]  # names and values in a dict
        train_dataset=rows(),
        eval_dataset=rows(),
        data_collator=padded,
        compute_metrics=totals,
    )


def by_hand(llm: PreTrainedModel) -> tuple[float, float]:
    """Loss and accuracy over all rows, one row at a time, without padding."""
    losses: list[float] = []
    hits = 0
    llm.train(False)
    for row in rows():
        with torch.no_grad():
            logits = llm(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        for position, label in enumerate(row["labels"][1:]):
            if label != -100:
                losses.append(float(-functional.log_softmax(logits[position], dim=-1)[label]))
                hits += int(logits[position].argmax()) == label
    return math.fsum(losses) / len(losses), hits / len(losses)


def test_the_loss_is_the_mean_over_all_tokens(tmp_path: Path) -> None:
    llm = tiny()
    found = trainer(llm, tmp_path).evaluate()
    loss, accuracy = by_hand(llm)
    assert found["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert found["eval_accuracy"] == accuracy
    assert found["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_transformers_own_loss_is_another(tmp_path: Path) -> None:
    # Should this fail one day, ExactTrainer has lost one of its reasons.
    ours = trainer(tiny(), tmp_path)
    theirs = Trainer(
        model=ours.model, args=ours.args, eval_dataset=ours.eval_dataset, data_collator=padded
    )
    assert theirs.evaluate()["eval_loss"] != pytest.approx(ours.evaluate()["eval_loss"], abs=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_size_of_the_evaluation_does_not_matter(batch: int, tmp_path: Path) -> None:
    llm = tiny()
    found = trainer(llm, tmp_path, per_device_eval_batch_size=batch).evaluate()
    assert found["eval_loss"] == pytest.approx(by_hand(llm)[0], abs=1e-5)


def test_label_smoothing_is_not_in_the_loss_that_trials_are_compared_by(tmp_path: Path) -> None:
    llm = tiny()
    found = trainer(llm, tmp_path, label_smoothing_factor=0.3).evaluate()
    assert found["eval_loss"] == pytest.approx(by_hand(llm)[0], abs=1e-5)


def test_a_loss_that_is_no_number_is_not_left_out(tmp_path: Path) -> None:
    llm = tiny()
    with torch.no_grad():
        next(llm.parameters())[rows()[1]["input_ids"][0]] = math.nan  # the embeddings
    assert math.isnan(trainer(llm, tmp_path).evaluate()["eval_loss"])


def test_a_text_without_anything_to_predict_is_refused(tmp_path: Path) -> None:
    made = trainer(tiny(), tmp_path)
    nothing = [{**row, "labels": [-100] * len(row["labels"])} for row in rows()]
    with pytest.raises(ValueError, match="no token of the evaluation text is to be predicted"):
        made.evaluate(nothing)  # type: ignore[arg-type]  # a list has all that a Dataset needs


def test_a_meter_counts_no_padding_and_goes_on_where_another_stopped() -> None:
    first = Meter()
    first.start()
    first.count(padded(rows()))
    with first.evaluating():
        pass
    first.stop()
    with first.evaluating():  # the last one, after the training
        pass
    read = first.read()
    assert (read.rows, read.tokens) == (len(LENGTHS), sum(LENGTHS))
    assert 0 <= read.evaluate_s <= read.train_s <= read.trial_s
    second = Meter(before=read)
    second.start()
    second.count({"input_ids": torch.zeros(2, 7)})
    then = second.read()
    assert (then.rows, then.tokens) == (len(LENGTHS) + 2, sum(LENGTHS) + 14)
    assert then.train_s >= read.train_s
    assert Meter(before=Reading(trial_s=3600)).read().trial_s >= 3600


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
