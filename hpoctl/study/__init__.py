"""The study: an Optuna study that is the only queue. `store` writes it, `summary` reads it."""
