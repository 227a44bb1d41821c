"""The objective of sweep.yaml: replace the toy below by your training."""

import random

from hpoctl.trial import Pruned, Trial


def objective(trial: Trial) -> float:
    """Trains once with `trial.params` and returns the metric: here, a line through noisy points."""
    training = trial.params["training"]
    random.seed(trial.seed)
    points = [(x / 50, 3 * x / 50 + random.gauss(0, 0.1)) for x in range(-50, 50)]
    slope, velocity, loss = 0.0, 0.0, float("inf")
    for epoch in range(10):
        for _ in range(len(points) // training["batch_size"]):
            batch = random.sample(points, training["batch_size"])
            gradient = sum(2 * (slope * x - y) * x for x, y in batch) / len(batch)
            velocity = training["momentum"] * velocity - training["learning_rate"] * gradient
            slope = max(-1e3, min(1e3, slope + velocity))
        loss = sum((slope * x - y) ** 2 for x, y in points) / len(points)
        print(f"epoch {epoch}: slope {slope:.3f}, loss {loss:.4f}")  # 'hpoctl logs STUDY TRIAL'
        trial.report(loss, step=epoch)
        if trial.should_prune():
            raise Pruned
    return loss
