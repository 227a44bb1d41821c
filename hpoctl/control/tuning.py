"""`tune`: the course text's command line, as a sweep file that it writes and runs.

The file stands beside the results, so that whoever outgrows the flags goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpoctl import config
from hpoctl.backends.local import visible_gpus
from hpoctl.control.here import run
from hpoctl.control.opened import Submitted
from hpoctl.control.submission import Request, submit
from hpoctl.errors import ConfigError
from hpoctl.rundir import RunDir, slug
from hpoctl.status import Status
from hpoctl.words import BackendName, nearest

OBJECTIVE = "hpoctl.objectives.causal_lm"
GOALS = {
    "eval_loss": "minimize",
    "perplexity": "minimize",
    "eval_accuracy": "maximize",
    "kl": "minimize",
    "tokens_per_second": "maximize",
    "samples_per_second": "maximize",
    "latency_s": "minimize",
    "train_seconds": "minimize",
    "gpu_hours": "minimize",
    "memory_gb": "minimize",
    "host_memory_gb": "minimize",
    "parameters": "minimize",
    "trainable_parameters": "minimize",
    "model_mb": "minimize",
}
"""What causal_lm measures, and which way is better."""

_SEVERAL = "multi:"
_MEASURED: Mapping[str, dict[str, object]] = {
    "kl": {"kl": "base"},
    "latency_s": {"latency": {}},
}  # what is only measured if asked
_MARK = "# Written by 'hpoctl tune'."
_HEAD = f"""\
{_MARK} It is a sweep file like any other: change it, then
# 'hpoctl check', 'hpoctl run', or 'hpoctl submit' on a cluster.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What the flags of `tune` say, in their own units: hours, gigabytes.

    `gpus` of a worker; None is one, where there are any.
    """

    base_model: str
    train_file: Path
    validation_file: Path
    output_dir: Path
    search_space: Path
    trials: int
    objective: str = "eval_loss"
    weights: str | None = None
    time_hours: float | None = None
    pruning_factor: float | None = None
    parallel: int = 1
    memory_gb: float | None = None
    gpus: int | None = None
    seed: int = 0
    backend: BackendName = BackendName.LOCAL
    overrides: tuple[str, ...] = ()

    @property
    def sweep_file(self) -> Path:
        """Where the equivalent sweep file is written."""
        return self.output_dir / "sweep.yaml"

    @property
    def lower_is_better(self) -> bool:
        """Which way the best value is; a weighted sum of several is minimised."""
        return GOALS.get(self.objective, "minimize") == "minimize"


def tune(request: TuneRequest, watch: Callable[[Status], None]) -> Status:
    """Writes the sweep file, runs it on this machine, and gives the status at its end.

    Raises ConfigError for what cannot be run; then nothing is written but, at most, the sweep file
    that the message speaks of.
    """
    return run(_written(request), watch)


def submit_tuning(request: TuneRequest) -> Submitted:
    """Writes the sweep file and submits it to the batch system."""
    return submit(_written(request))


def sweep_text(request: TuneRequest, space: str) -> str:
    """The equivalent sweep file; `space` is the text of the search space. Raises ConfigError."""
    metrics = _metrics(request.objective, request.weights)
    measured: dict[str, object] = {}
    for metric in metrics:
        measured |= _MEASURED.get(str(metric["name"]), {})
    args: dict[str, object] = {
        "model": {"pretrained": request.base_model},
        "dataset": {"train": str(request.train_file), "validation": str(request.validation_file)},
        **({"measure": measured} if measured else {}),
    }
    keys: dict[str, object] = {
        "study": slug(request.output_dir.absolute().name),
        "objective": OBJECTIVE,
        "objective_args": args,
        "metrics": metrics,
        **_limits(request),
        "sampler": "tpe",
        **_pruner(request, metrics),
        "mode": "async",
        "workers": request.parallel,
        "budget": _budget(request),
        "backend": request.backend.value,
        "resources": {"gpus": _gpus(request)},
        "seed": request.seed,
    }
    indented = "".join(f"  {line}" if line.strip() else line for line in space.splitlines(True))
    return f"{_HEAD}{config.dump(keys)}\n# from {request.search_space}\nsearch_space:\n{indented}"


def _written(request: TuneRequest) -> Request:
    """The request for a run in `output_dir`, whose sweep file is written once it is valid."""
    for file in (request.train_file, request.validation_file, request.search_space):
        if not file.exists():
            raise ConfigError(f"{file}: no such file")
    try:
        space = request.search_space.read_text(encoding="utf-8")
    except UnicodeDecodeError as wrong:
        raise ConfigError(f"{request.search_space}: is not UTF-8: save it as UTF-8") from wrong
    except OSError as wrong:
        raise ConfigError(f"{request.search_space}: cannot be read: {wrong.strerror}") from wrong
    config.check_space(space, str(request.search_space))
    text, file = sweep_text(request, space), request.sweep_file
    config.parse(text, str(file), request.overrides)
    text = config.overridden(text, str(file), request.overrides)
    if file.exists() and _is_another(file, text):
        raise ConfigError(f"{file} is there already, of another call: give another --output-dir")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as wrong:
        raise ConfigError(f"--output-dir: {file}: cannot be written: {wrong.strerror}") from wrong
    return Request(sweep_file=file, run_dir=request.output_dir)


def _is_another(file: Path, text: str) -> bool:
    """Whether a sweep file that lies there may not be replaced by this text."""
    found = file.read_text(encoding="utf-8", errors="replace")
    ours = found.startswith(_MARK) and not RunDir(file.parent).plan_file.exists()
    return found != text and not ours


def _metrics(objective: str, weights: str | None) -> list[dict[str, object]]:
    several = objective.startswith(_SEVERAL)
    names = [name.strip() for name in objective.removeprefix(_SEVERAL).split(",")]
    if len(names) > 1 and not several:
        raise ConfigError(f"--optimization-objective: for several write '{_SEVERAL}{objective}'")
    for name in names:
        if name not in GOALS:
            hint = nearest(name, [*GOALS])
            raise ConfigError(f"--optimization-objective: '{name}' is not measured; {hint}")
    metrics: list[dict[str, object]] = [{"name": name, "goal": GOALS[name]} for name in names]
    if weights is None:
        return metrics
    if not several:
        raise ConfigError("--optimization-weights: are for several objectives, 'multi:a,b'")
    numbers = _weights(weights)
    if len(numbers) != len(names):
        raise ConfigError(
            f"--optimization-weights: {len(numbers)} weights for {len(names)} objectives"
        )
    return [{**m, "weight": weight} for m, weight in zip(metrics, numbers, strict=True)]


def _weights(given: str) -> list[float]:
    try:
        return [float(part) for part in given.split(",")]
    except ValueError:
        raise ConfigError(
            f"--optimization-weights: {given!r} is no list of numbers: write 0.7,0.3"
        ) from None


def _limits(request: TuneRequest) -> Mapping[str, object]:
    if request.memory_gb is None:
        return {}
    return {"constraints": [{"name": "memory_gb", "max": request.memory_gb}]}


def _pruner(request: TuneRequest, metrics: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """Successive halving: of the trials that reach a rung, one in `pruning_factor` goes on."""
    if (factor := request.pruning_factor) is None:
        return {}
    if factor < 2 or factor != int(factor):
        raise ConfigError(f"--pruning-factor: is {factor:g}: give a whole number from 2 on")
    if len(metrics) > 1 and "weight" not in metrics[0]:
        raise ConfigError("--pruning-factor: compares one objective: give --optimization-weights")
    return {"pruner": {"name": "asha", "reduction_factor": int(factor)}}


def _gpus(request: TuneRequest) -> int:
    if request.gpus is not None:
        return request.gpus
    return int(request.backend is BackendName.SLURM or bool(visible_gpus()))


def _budget(request: TuneRequest) -> Mapping[str, object]:
    if request.time_hours is None:
        return {"trials": request.trials}
    return {"trials": request.trials, "time": f"{max(1, round(request.time_hours * 3600))}s"}
