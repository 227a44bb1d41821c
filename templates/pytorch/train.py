"""The objective of sweep.yaml: a loop in PyTorch. Replace the toy model and data by yours.

A worker imports this file once and calls `prepare` once; then each trial runs `objective` in a
process of its own, which has all of that already.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hpoctl.trial import Checkpointed, Pruned, Trial

checkpoints = True  # a trial goes on where it saved itself, in another allocation too
DATA: dict[str, torch.Tensor] = {}


def prepare(args: Mapping[str, object]) -> None:
    """Loads what all trials share. Start no CUDA here: it does not survive the fork."""
    torch.set_num_threads(1)
    inputs = torch.linspace(-3, 3, 512).unsqueeze(1)
    DATA.update(inputs=inputs, targets=torch.sin(inputs))


def objective(trial: Trial) -> float:
    """Trains one model with `trial.params` and returns its loss."""
    torch.set_num_threads(trial.cpus)
    torch.manual_seed(trial.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    inputs, targets = DATA["inputs"].to(device), DATA["targets"].to(device)
    width, rate = int(trial.params["hidden_size"]), float(trial.params["learning_rate"])
    model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    saved, first = trial.dir / "state.pt", 1
    if trial.resumed and saved.exists():
        state = torch.load(saved)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        first = state["step"] + 1
    loss = torch.tensor(0.0)
    for step in range(first, int(trial.args["steps"]) + 1):
        batch = torch.randperm(len(inputs))[: int(trial.params["batch_size"])].to(device)
        loss = nn.functional.mse_loss(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                loss = nn.functional.mse_loss(model(inputs), targets)
            trial.report(loss.item(), step=step)
            if trial.should_prune():
                raise Pruned
            save(saved, model, optimizer, step)  # so that a crash costs little
        if trial.should_checkpoint():  # the allocation ends soon
            save(saved, model, optimizer, step)
            raise Checkpointed
    with torch.no_grad():
        return nn.functional.mse_loss(model(inputs), targets).item()


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes what `objective` goes on from, whole or not at all."""
    partial = path.with_suffix(".partial")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save({**state, "rng": torch.get_rng_state()}, partial)
    partial.replace(path)
