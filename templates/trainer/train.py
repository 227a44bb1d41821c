"""What sweep.yaml starts: a Trainer with one callback. Replace the toy model and data by yours.

It saves itself now and then, and when it is asked to: a trial goes on where it was cut off.
"""

from pydoc_data.topics import topics

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from hpoctl.integrations import current_trial
from hpoctl.integrations.transformers import HpoctlCallback

STEPS, BLOCK = 50, 64

trial = current_trial()  # parameters, seed and folder; the same on every rank
set_seed(trial.seed)
torch.set_num_threads(trial.cpus)

text = torch.tensor(list("".join(topics.values()).encode()[: 1000 * BLOCK]))  # a token is a byte
rows = [{"input_ids": row, "labels": row} for row in text.view(-1, BLOCK)]

hidden_size = int(trial.params["hidden_size"])
model = GPT2LMHeadModel(
    GPT2Config(n_layer=2, n_head=2, n_embd=hidden_size, vocab_size=256, n_positions=BLOCK)
)
model.loss_type = "ForCausalLM"
callback = HpoctlCallback(trial)  # reports each evaluation, prunes, and saves when asked to
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=str(trial.dir),
        seed=trial.seed,
        max_steps=STEPS,
        learning_rate=trial.params["learning_rate"],
        per_device_train_batch_size=trial.params["batch_size"],
        eval_strategy="steps",
        eval_steps=STEPS // 5,
        save_strategy="steps",
        save_steps=STEPS // 5,  # the latest stays
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=rows[:-100],
    eval_dataset=rows[-100:],
    callbacks=[callback],
)
trainer.train(resume_from_checkpoint=callback.checkpoint())
trial.finish(trainer.evaluate()["eval_loss"])
