"""A Slurm controller for hyperparameter optimisation of language models."""
