"""A program that runs a command of hpoctl and dies in the middle of it."""

from __future__ import annotations

# Runs a command, and dies by SIGKILL just before (or after) the n-th call of a function.
HARNESS = """
import os, signal, sys
from importlib import import_module
module, path, when, nth = sys.argv[1:5]
*owners, name = path.split(".")
owner = import_module(module)
for part in owners:
    owner = getattr(owner, part)
function, calls = getattr(owner, name), 0
def deadly(*args, **kwargs):
    global calls
    calls += 1
    if calls < int(nth):
        return function(*args, **kwargs)
    if when == "after":
        function(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, deadly)
sys.argv = ["hpoctl", *sys.argv[5:]]
from hpoctl.cli import main
main()
"""
