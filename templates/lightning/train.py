"""The objective of sweep.yaml: a Lightning module. Replace the toy model and data by yours.

A trial saves itself after every epoch, and when it is asked to: it goes on where it was cut off.
"""

from collections.abc import Mapping

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from hpoctl.trial import Checkpointed, Pruned, Trial

checkpoints = True  # a trial goes on where it saved itself, in another allocation too


class Model(lightning.LightningModule):
    """One hidden layer, of the width and with the learning rate of a trial."""

    def __init__(self, hidden_size: int, learning_rate: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))
        self.learning_rate = learning_rate

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


class Follow(lightning.Callback):
    """Reports every validation; ends the trial where it is pruned, or its allocation ends soon."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def on_validation_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self.trial.report(trainer.callback_metrics["val_loss"].item(), step=trainer.global_step)
        if self.trial.should_prune():
            raise Pruned

    def on_train_batch_end(self, trainer: lightning.Trainer, *given: object) -> None:
        # After an epoch's last batch its validation comes first.
        if self.trial.should_checkpoint() and not trainer.is_last_batch:
            trainer.save_checkpoint(self.trial.dir / "last.ckpt")
            raise Checkpointed


def prepare(args: Mapping[str, object]) -> None:
    """Done once in a worker, before it forks: start no CUDA here."""
    torch.set_num_threads(1)


def objective(trial: Trial) -> float:
    """Trains one model with `trial.params` and returns its val_loss."""
    torch.set_num_threads(trial.cpus)
    lightning.seed_everything(trial.seed, verbose=False)
    inputs = torch.linspace(-3, 3, 512).unsqueeze(1)
    train, validation = random_split(TensorDataset(inputs, torch.sin(inputs)), [0.8, 0.2])
    batch_size = int(trial.params["batch_size"])
    model = Model(int(trial.params["hidden_size"]), float(trial.params["learning_rate"]))
    saved = trial.dir / "last.ckpt"
    trainer = lightning.Trainer(
        max_epochs=int(trial.args["epochs"]),
        default_root_dir=trial.dir,
        callbacks=[
            Follow(trial),
            ModelCheckpoint(trial.dir, filename="last", enable_version_counter=False),
        ],
        num_sanity_val_steps=0,  # it would be reported as the first validation
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(
        model,
        DataLoader(train, batch_size=batch_size, shuffle=True),
        DataLoader(validation, batch_size=batch_size),
        ckpt_path=saved if trial.resumed and saved.exists() else None,
    )
    return float(trainer.callback_metrics["val_loss"])
