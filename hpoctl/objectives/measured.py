"""Objective: any other one for a few steps, measured: what `hpoctl fit` runs at each corner.

`objective_args`:

    of:        `objective` or `command` as in a sweep file, and the `args` that it gets
    steps:     how many steps that is, for the time of one
    limit_gb:  more memory than this does not fit
    on_gpu:    true where it is a GPU's, which the objective returns as `memory_gb`
    rising:    true where each trial takes more than the one before: once one does not fit, those
               after it end as pruned
"""

from __future__ import annotations

import ctypes
import importlib
import re
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hpoctl.corners import shortened
from hpoctl.failures import TrialFailed, classify
from hpoctl.objectives import command
from hpoctl.trial import Objective, Outcome, Pruned, Trial
from hpoctl.words import Cause

GIB = 2**30  # as torch and nvidia-smi count
_HOST_IS_FULL = re.compile(r"DefaultCPUAllocator|[Cc]annot allocate memory|can't allocate memory")
_LOOK_S = 0.02  # between two looks at the memory
_FAR = 1.5  # times what is left below the limit
_TRYING = "largest-tried"  # the trial that has not shown yet that it fits


def prepare(args: Mapping[str, object]) -> None:
    """What the measured objective does once, before any fork."""
    of = _group(args, "of")
    if "objective" in of:
        inner = getattr(importlib.import_module(_module(of)), "prepare", None)
        if inner is not None:
            inner(_group(of, "args"))


def objective(trial: Trial) -> dict[str, float]:
    """`peak_gb` of the GPU or the host, seconds a step, and what the objective itself returned.

    Raises TrialFailed where it does not fit, and Pruned where a smaller one did not.
    """
    steps, limit = _number(trial.args, "steps"), trial.args.get("limit_gb")
    limit_gb = None if limit is None else _number(trial.args, "limit_gb")
    trying, me = trial.dir.parent / _TRYING, str(trial.number)
    if trial.args.get("rising"):
        if trying.exists() and trying.read_text() != me:
            raise Pruned("a smaller one did not fit")
        trying.write_text(me)
    begun = time.monotonic()
    with _within(None if trial.args.get("on_gpu") else limit_gb):
        said = _named(_inner(trial)(cast(Trial, _Short(trial))))
    took = said.get("train_seconds", time.monotonic() - begun)
    peak_gb = said.get("memory_gb", 0.0) if trial.args.get("on_gpu") else 0.0
    peak_gb = peak_gb or _host_gb()
    if limit_gb is not None and peak_gb > limit_gb:
        raise TrialFailed(f"took {peak_gb:.2f} GB, the limit is {limit_gb:g} GB", Cause.HOST_OOM)
    trying.unlink(missing_ok=True)
    return {**said, "peak_gb": peak_gb, "step_s": took / steps}


class _Short:
    """The trial as the measured objective sees it: its own arguments, and nobody to report to.

    However long a point or the arguments say that it is, it is short.
    """

    def __init__(self, trial: Trial) -> None:
        self._trial = trial
        steps = int(_number(trial.args, "steps"))
        self.params = shortened(trial.params, steps)
        of = _group(trial.args, "of")
        self.args, self.metrics = shortened(_group(of, "args"), steps), _metrics(of)

    def report(self, value: float, step: int, **extra: float) -> None:
        """Nothing: how good it is does not matter here."""

    def should_prune(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)


def _inner(trial: Trial) -> Objective:
    of = _group(trial.args, "of")
    if "command" in of:
        words = of["command"]
        assert isinstance(words, list | tuple), "validated before"
        return _all_that_fits(command.runner([str(word) for word in words], _metrics(of)))
    attribute = str(of["objective"]).partition(":")[2] or "objective"
    return _all_that_fits(getattr(importlib.import_module(_module(of)), attribute))


def _metrics(of: Mapping[str, object]) -> list[str]:
    given = of.get("metrics", [{"name": "value"}])
    assert isinstance(given, list | tuple), "validated before"
    return [str(metric["name"]) for metric in given]


def _all_that_fits(inner: Objective) -> Objective:
    """The objective, whose want of host memory has its class: torch has no name for that."""

    def guarded(trial: Trial, /) -> Outcome:
        try:
            return inner(trial)
        except Exception as raised:
            if classify(raised) is Cause.ERROR and _HOST_IS_FULL.search(str(raised)):
                raise TrialFailed(str(raised).splitlines()[0], Cause.HOST_OOM) from raised
            raise

    return guarded


def _named(outcome: Outcome) -> dict[str, float]:
    return dict(outcome) if isinstance(outcome, Mapping) else {}


@contextmanager
def _within(limit_gb: float | None) -> Iterator[None]:
    """Ends what runs here with a MemoryError once it takes more of the host than the limit.

    Somebody looks, and the kernel refuses what would go far beyond at once, so that the machine
    does not suffer. The kernel alone would not do: it counts what is reserved and never used, and a
    thread that it lets no memory have may hang. Source: setrlimit(2), RLIMIT_DATA.
    """
    if limit_gb is None:
        yield
        return
    most, (resident, private) = limit_gb * GIB, _now()
    whole = int(private + _FAR * max(most - resident, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (whole, resource.RLIM_INFINITY))
    ended, me = threading.Event(), threading.get_ident()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if _now()[0] > most:
                raised = ctypes.py_object(MemoryError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(me), raised)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _now() -> tuple[int, int]:
    """Bytes of this process that are in memory, and that are its own. Source: proc(5), statm."""
    pages = [int(word) for word in Path("/proc/self/statm").read_text().split()]
    return pages[1] * resource.getpagesize(), pages[5] * resource.getpagesize()


def _host_gb() -> float:
    """The most that this process, or the largest program that it ran, has had in memory at once.

    Of itself by VmHWM: getrusage also counts what there was before exec. Of a program it does, so
    that one smaller than this process is as large. Source: proc(5), getrusage(2).
    """
    status = Path("/proc/self/status").read_text()
    own = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(int(own[1]) if own else 0, largest) * 1024 / GIB


def _module(of: Mapping[str, object]) -> str:
    return str(of["objective"]).partition(":")[0]


def _group(tree: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = tree.get(name, {})
    if not isinstance(found, Mapping):
        raise ValueError(f"{name}: is {found!r}, but must be a group of names and values")
    return found


def _number(tree: Mapping[str, object], name: str) -> float:
    value = tree.get(name)
    if not isinstance(value, int | float):
        raise ValueError(f"{name}: is {value!r}, but must be a number")
    return float(value)
