"""Backends: each is one batch system behind the functions of `control.Backend`."""
