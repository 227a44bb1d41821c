"""`fit`: whether all of a search space fits into memory, and how large a batch may be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl import config, corners, derive, rundir
from hpoctl.control.derived import Watch, await_end, begin, rehearse, results
from hpoctl.control.opened import Submitted
from hpoctl.control.submission import Planned, Request
from hpoctl.corners import Corner
from hpoctl.failures import last_line
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import RunDir
from hpoctl.space import Params
from hpoctl.sweep import Sweep
from hpoctl.words import Cause, OriginKind

STEPS, CORNERS, BATCH = 3, 12, 1024
_GIB = 2**30
_SPARE = 0.1  # of a machine's free memory, kept for everything else on it
_BATCH_OF_CAUSAL_LM = "training.batch_size"
_OUT_OF_MEMORY = (Cause.CUDA_OOM, Cause.HOST_OOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRequest:
    """What `fit` was asked for: steps at each corner, how many corners, the largest batch to try.

    Without `limit_gb` it is what the sweep's constraint on `memory_gb` says, else the GPU itself,
    else `resources.mem`, else what this machine has free.
    """

    request: Request
    steps: int = STEPS
    corners: int = CORNERS
    batch: int = BATCH
    limit_gb: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One point: what it took, or why it came to nothing; neither while it has not ended."""

    name: str
    params: Params
    state: TrialState
    memory_gb: float | None = None
    step_s: float | None = None
    why: str | None = None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What is known so far. `batches` rise at the largest corner; `largest_batch` was the last
    that fitted, None where none did or the sweep has no batch size that hpoctl knows.
    """

    study: str
    run_dirs: tuple[Path, ...]
    limit_gb: float | None
    corners: tuple[Tried, ...]
    batches: tuple[Tried, ...] = ()
    batch_parameter: str | None = None
    largest_batch: int | None = None
    unfinished: int
    notes: tuple[str, ...] = ()
    submitted: Submitted | None = None


def fit(wanted: FitRequest, watch: Watch | None = None) -> Fitted:
    """Tries the corners of a sweep's space for a few steps, then rising batches at the largest.

    Waits for the end where somebody watches; else the same command goes on. Raises ConfigError.
    """
    sweep, limit_gb = _limited(wanted)
    text, tried = _corner_text(wanted, sweep, limit_gb)
    first = _folder(wanted, sweep, text, "fit")
    submitted = begin(first, wanted.request.home, lambda: text)
    await_end(first, watch)
    at_corners, unfinished = _read(first, tried)
    fitted = Fitted(
        study=sweep.study,
        run_dirs=(first.path,),
        limit_gb=limit_gb,
        corners=at_corners,
        unfinished=unfinished,
        notes=_notes(sweep),
        submitted=submitted,
    )
    largest = _largest(at_corners)
    name = corners.batch_parameter(sweep.search_space) or (
        _BATCH_OF_CAUSAL_LM if derive.is_causal_lm(_tree(wanted)) else None
    )
    if unfinished or largest is None or name is None:
        return fitted
    return _with_batches(wanted, fitted, largest, name, watch)


def rehearse_fit(wanted: FitRequest) -> tuple[str, Planned]:
    """The sweep file that `fit` would submit first, and its plan."""
    sweep, limit_gb = _limited(wanted)
    text, _ = _corner_text(wanted, sweep, limit_gb)
    return text, rehearse(_folder(wanted, sweep, text, "fit"), wanted.request.home, text)


def _with_batches(
    wanted: FitRequest, fitted: Fitted, largest: Tried, name: str, watch: Watch | None
) -> Fitted:
    points = [
        Corner(name=f"batch {batch}", params={**largest.params, name: batch})
        for batch in corners.doublings(1, wanted.batch)
    ]
    sweep = config.load(wanted.request.sweep_file, wanted.request.overrides)
    text = _text(wanted, sweep, points, fitted.limit_gb, suffix="fit-batch", rising=name)
    run_dir = _folder(wanted, sweep, text, "fit-batch")
    submitted = begin(run_dir, wanted.request.home, lambda: text)
    await_end(run_dir, watch)
    batches, unfinished = _read(run_dir, points)
    fitting = [
        int(str(tried.params[name])) for tried in batches if tried.state is TrialState.COMPLETE
    ]
    return Fitted(
        study=fitted.study,
        run_dirs=(*fitted.run_dirs, run_dir.path),
        limit_gb=fitted.limit_gb,
        corners=fitted.corners,
        batches=batches,
        batch_parameter=name,
        largest_batch=max(fitting, default=None),
        unfinished=unfinished,
        notes=fitted.notes,
        submitted=submitted or fitted.submitted,
    )


def _limited(wanted: FitRequest) -> tuple[Sweep, float | None]:
    """The sweep, and the memory that a trial may take; None where a GPU itself is the limit."""
    sweep = config.load(wanted.request.sweep_file, wanted.request.overrides)
    if wanted.limit_gb is not None:
        return sweep, wanted.limit_gb
    on_gpu = sweep.resources.gpus.count > 0
    constrained = _constrained(_tree(wanted), on_gpu=on_gpu)
    if constrained is not None or on_gpu:
        return sweep, constrained
    if sweep.resources.mem is not None:
        return sweep, _slurm_gb(sweep.resources.mem)
    return sweep, round(_free_gb() * (1 - _SPARE), 1)


def _constrained(tree: Mapping[str, object], *, on_gpu: bool) -> float | None:
    """The most memory that the sweep's own constraints allow."""
    names = ("memory_gb",) if on_gpu else ("host_memory_gb", "memory_gb")
    given = tree.get("constraints", ())
    limits = {
        constraint["name"]: float(constraint["max"])
        for constraint in (given if isinstance(given, list) else ())
        if constraint.get("max") is not None
    }
    return next((limits[name] for name in names if name in limits), None)


def _slurm_gb(mem: str) -> float:
    """`64G` as a number; one without a unit is in MiB.

    Source: https://slurm.schedmd.com/sbatch.html#OPT_mem
    """
    number, unit = (mem[:-1], mem[-1]) if mem[-1].isalpha() else (mem, "M")
    return round(int(number) * 2.0 ** (10 * ("KMGT".index(unit) - 2)), 1)


def _free_gb() -> float:
    """What this machine could give to a new process. Source: proc(5), MemAvailable."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024 / _GIB
    return 1.0


def _tree(wanted: FitRequest) -> dict[str, object]:
    file = wanted.request.sweep_file
    return config.read(file.read_text(encoding="utf-8"), str(file), wanted.request.overrides)


def _corner_text(
    wanted: FitRequest, sweep: Sweep, limit_gb: float | None
) -> tuple[str, tuple[Corner, ...]]:
    tried = corners.corners(sweep.search_space, wanted.corners)
    return _text(wanted, sweep, tried, limit_gb, suffix="fit"), tried


def _text(
    wanted: FitRequest,
    sweep: Sweep,
    points: Sequence[Corner],
    limit_gb: float | None,
    *,
    suffix: str,
    rising: str | None = None,
) -> str:
    return derive.text(
        derive.short(
            _tree(wanted),
            [point.params for point in points],
            derive.origin(OriginKind.FIT, sweep.study),
            study=f"{sweep.study}-{suffix}",
            steps=wanted.steps,
            limit_gb=limit_gb,
            rising=rising,
        ),
        str(wanted.request.sweep_file),
    )


def _folder(wanted: FitRequest, sweep: Sweep, text: str, suffix: str) -> RunDir:
    """`runs/letters-fit-1a2b3c`: another sweep, limit or number of steps has another folder."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    study = f"{sweep.study}-{suffix}-{digest}"
    runs = (wanted.request.home / "runs") if wanted.request.run_dir is None else None
    base = runs or wanted.request.run_dir
    assert base is not None, "one of the two"
    return RunDir((base / rundir.slug(study)).absolute())


def _notes(sweep: Sweep) -> tuple[str, ...]:
    if sweep.command is not None:
        return (
            "the command runs as it is: let it end after HPOCTL_ARG_MAX_STEPS steps, and print"
            " 'memory_gb' if it uses a GPU, else its host memory is measured",
        )
    return ()


def _largest(tried: Sequence[Tried]) -> Tried | None:
    """The corner that took most; one that did not fit took more than any that did."""
    full = [corner for corner in tried if corner.out_of_memory]
    if full:
        return full[0]
    measured = [corner for corner in tried if corner.memory_gb is not None]
    return max(measured, key=lambda corner: corner.memory_gb or 0.0, default=None)


def _read(run_dir: RunDir, points: Sequence[Corner]) -> tuple[tuple[Tried, ...], int]:
    records, unfinished = results(run_dir)
    return tuple(_tried(point, records[i]) for i, point in enumerate(points)), unfinished


def _tried(point: Corner, record: TrialRecord) -> Tried:
    took = record.attrs.get("step_s")
    return Tried(
        name=point.name,
        params=point.params,
        state=record.state,
        memory_gb=record.values[0] if record.values else None,
        step_s=took if isinstance(took, float) else None,
        why=_why(record.attrs),
        out_of_memory=record.attrs.get("cause") in _OUT_OF_MEMORY,
    )


def _why(attrs: Mapping[str, object]) -> str | None:
    said = last_line(str(attrs.get("error", "")))
    return said.partition(": ")[2] or said or None
