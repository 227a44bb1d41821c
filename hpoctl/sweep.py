"""The Sweep: one validated configuration as frozen values.

The field names here are the keys of the sweep file. This module knows no YAML: `config.py` reads
the file and gives every complaint raised here its line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from hpoctl import flags
from hpoctl.metrics import MEMORY, WEIGHTED, Constraint, contradictions
from hpoctl.metrics import Metric as Metric
from hpoctl.origin import Origin
from hpoctl.policies import POLICIES, Policies
from hpoctl.pruners import NoPruner, Pruner
from hpoctl.samplers import Cmaes, Grid, Listed, Manual, Pbt, Sampler, Tpe
from hpoctl.space import Float, Int, Params, SearchSpace
from hpoctl.values import Flag, NotNegative, Positive, Values
from hpoctl.words import BackendName, Cause, Gist, Mode, Policy, StorageKeys, nearest

PLACEHOLDER = re.compile(r"\{\{|\}\}|(?<!\$)\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
TRIAL_PLACEHOLDERS = ("trial.number", "trial.dir", "trial.seed", "trial.params")
_UNITS = re.compile(r"(?:(\d{1,6})d)?\s*(?:(\d{1,6})h)?\s*(?:(\d{1,6})m(?:in)?)?\s*(?:(\d{1,6})s)?")
_DAYS = re.compile(r"(\d{1,6})-(\d{1,2})(?::(\d{2}))?(?::(\d{2}))?")  # D-H, D-H:M, D-H:M:S
_CLOCK = re.compile(r"()(?:(\d{1,4}):)?(\d{1,4}):(\d{2})")  # M:S, H:M:S


def parse_duration(value: object) -> timedelta:
    """`2h`, `1h 30m`, `45s` or a form of Slurm with a colon or a dash, as a timedelta.

    Raises ValueError on anything else; a bare number is refused, as its unit would be a guess.
    Source: https://slurm.schedmd.com/sbatch.html#OPT_time
    """
    text = str(value).strip()
    match = text and (_UNITS.fullmatch(text) or _DAYS.fullmatch(text) or _CLOCK.fullmatch(text))
    if not match:
        raise PydanticCustomError(
            "duration",
            "{given} is not a time: write 30m, 2h, 1h 30m or 1-12:00:00",
            {"given": repr(value)},
        )
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    length = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not length:
        raise PydanticCustomError("duration", "a time of zero leaves nothing to run", {})
    return length


Duration = Annotated[timedelta, BeforeValidator(parse_duration)]


def one_line(value: object) -> object:
    """Refuses text that would break out of its line in a script."""
    if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f]", value):
        raise PydanticCustomError("one_line", "must be one line, without control characters", {})
    return value


Line = Annotated[str, BeforeValidator(one_line), Field(min_length=1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:,+@/=-]+$")]

_WARNING_S = 120  # in which a trial should be able to save itself


class Budget(Values):
    """What a sweep may spend; a grid or a manual list knows its own number of trials."""

    trials: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] | None = None
    gpu_hours: Annotated[float, Field(strict=True, gt=0)] | None = None
    time: Duration | None = None


class Gpus(Values):
    """GPUs of one worker, as Slurm counts them."""

    count: int
    type: str | None = None


def _parse_gpus(value: object) -> Gpus:
    match = re.fullmatch(r"(?:([A-Za-z][A-Za-z0-9_.-]*):)?(\d+)", str(value))
    if not match:
        raise PydanticCustomError(
            "gpus", "{given} is not a number of GPUs: write 1, or A100:1", {"given": repr(value)}
        )
    return Gpus(count=int(match[2]), type=match[1])


class Container(Values):
    """An Apptainer image in which the worker runs; `args` are flags of `apptainer exec`.

    `binds` are folders that it sees besides the run directory and the folder of the submission.
    """

    image: Line
    args: tuple[Annotated[Line, Field(pattern=r"^-")], ...] = ()
    binds: tuple[Line, ...] = ()


def _imaged(value: object) -> object:
    """`train.sif` stands for `{image: train.sif}`."""
    return {"image": value} if isinstance(value, str) else value


class Resources(Values):
    """What one worker asks Slurm for.

    `setup` lines run in the allocation before the worker; `python` starts it (without: the one
    that runs hpoctl now, and in a `container` its python3); `sbatch` holds further flags, passed
    on as they stand.
    """

    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    gpus: Annotated[Gpus, BeforeValidator(_parse_gpus)] = Gpus(count=0)
    gpu_flag: Literal["gres", "gpus", "gpus-per-node", "gpus-per-task"] = "gres"
    cpus: Positive = 1
    mem: Annotated[str, Field(pattern=r"^\d+[KMGT]?$")] | None = None
    time: Duration = timedelta(hours=1)
    warning: Duration | None = None
    grace: Duration = timedelta(seconds=20)
    setup: tuple[Line, ...] = ()
    container: Annotated[Container | None, BeforeValidator(_imaged)] = None
    python: Line | None = None
    sbatch: tuple[Annotated[Line, Field(pattern=r"^--[a-z]")], ...] = ()

    @property
    def warning_s(self) -> int:
        """Seconds before the end of an allocation when its trial is asked to save itself."""
        if self.warning is not None:
            return int(self.warning.total_seconds())
        return min(_WARNING_S, int(self.time.total_seconds()) // 5)


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise PydanticCustomError("password", "is not a URL", {}) from None
    secrets = {"password", "passwd", "sslpassword", "ssl_key_password"}
    if parts.password is not None or secrets & {name for name, _ in parse_qsl(parts.query)}:
        raise PydanticCustomError(
            "password",
            "a password must not stand here: use url_env, url_file or ~/.pgpass",
            {},
        )
    return url


def _long_enough(lease: timedelta) -> timedelta:
    """A lease that leaves time for several signs of life."""
    if lease < timedelta(seconds=2):
        raise PydanticCustomError("lease", "is too short: give at least 2s")
    return lease


class Storage(Values):
    """Where the study lives; never a password. At most one key; none is a journal file."""

    url: Annotated[Line, AfterValidator(_without_password)] | None = None
    url_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    url_file: Line | None = None
    sqlite: Line | None = None
    journal: Line | None = None

    @model_validator(mode="after")
    def _at_most_one(self) -> Storage:
        given = self.model_dump(exclude_none=True)
        if len(given) > 1:
            raise PydanticCustomError(
                "storage", "give only one of {keys}", {"keys": ", ".join(given)}
            )
        return self


def _parse_mode(value: object) -> Mode | None:
    if value in (None, "auto"):
        return None
    try:
        return Mode(str(value))
    except ValueError:
        hint = nearest(str(value), [*Mode, "auto"])
        raise PydanticCustomError(
            "mode", "{given} is not known; {hint}", {"given": repr(value), "hint": hint}
        ) from None


class Estimate(Values):
    """What the user expects of one trial and of one start; lets a plan count in hours."""

    trial: Duration
    startup: Duration = timedelta(minutes=1)


class Sweep(Values):
    """One sweep file."""

    study: Line = Field(max_length=200)
    objective: Line | None = None
    command: tuple[str, ...] | None = None
    objective_args: Mapping[str, Any] = Field(default_factory=dict)
    metrics: tuple[Metric, ...] = (Metric(name="value"),)
    constraints: tuple[Constraint, ...] = ()
    search_space: SearchSpace
    start: tuple[Mapping[str, Any], ...] = ()
    sampler: Sampler = Tpe()
    pruner: Pruner = NoPruner()
    mode: Annotated[Mode | None, BeforeValidator(_parse_mode)] = None  # None is auto
    backend: BackendName = BackendName.SLURM
    workers: Positive | None = None
    trials_per_task: Positive = 1
    max_running: Positive | None = None
    budget: Budget = Budget()
    resources: Resources = Resources()
    estimate: Estimate | None = None
    storage: Storage = Storage()
    lease: Annotated[Duration, AfterValidator(_long_enough)] = timedelta(minutes=2)
    checkpoints: Flag = False
    on: Policies = Field(default_factory=dict)
    stop_after: NotNegative = 5
    seed: NotNegative = 0
    origin: Origin | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Sweep:
        for key, message in _contradictions(self):
            raise PydanticCustomError("contradiction", "{text}", {"key": key, "text": message})
        return self

    def policy(self, cause: Cause) -> Policy:
        """What becomes of a trial after an attempt that came to nothing so.

        Memory that has a limit here is violated by a trial that has used it up.
        """
        constrained = {constraint.name for constraint in self.constraints}
        default = Policy.INFEASIBLE if MEMORY.get(cause) in constrained else POLICIES[cause]
        return self.on.get(cause, default)

    @property
    def objectives(self) -> tuple[Metric, ...]:
        """What the study compares: the metrics, or their weighted sum."""
        return (WEIGHTED,) if self.metrics[0].weight is not None else self.metrics

    @property
    def gist(self) -> Gist:
        """What a command needs that only reads the study."""
        return Gist(
            metrics=tuple(metric.name for metric in self.objectives),
            shown=self.shown,
            gpu_hours=self.budget.gpu_hours,
            storage=StorageKeys(**self.storage.model_dump()),
        )

    @property
    def starts(self) -> tuple[Params, ...]:
        """The points to run first, some of them with a sampler's share: all priors, then `start`.

        A sampler that knows its points has none.
        """
        if isinstance(self.sampler, Listed):
            return ()
        given = [self.search_space.prior_point(), *self.start]
        return tuple(p for i, p in enumerate(given) if p and p not in given[:i])

    @property
    def shown(self) -> tuple[str, ...]:
        """The names of values to be shown with each trial, besides those that are compared."""
        weighted = () if self.objectives is self.metrics else self.metrics
        names = [*(metric.name for metric in weighted), *(c.name for c in self.constraints)]
        compared = {metric.name for metric in self.objectives}
        return tuple(name for name in dict.fromkeys(names) if name not in compared)

    @property
    def trials(self) -> int:
        """The budget in trials, exactly."""
        if isinstance(self.sampler, Grid):
            return self.search_space.size() or 0
        if isinstance(self.sampler, Manual):
            return self.sampler.trials
        assert self.budget.trials is not None, "refused by validation"
        return self.budget.trials


def _contradictions(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """What no single key shows: the key to change, and what to change."""
    if (sweep.objective is None) == (sweep.command is None):
        yield "objective", "give either 'objective' or 'command'"
    if sweep.command == ():
        yield "command", "is empty: name a program, [python, train.py]"
    yield from _command_contradictions(sweep)
    prunes = not isinstance(sweep.pruner, NoPruner)
    yield from contradictions(sweep.metrics, sweep.constraints, prunes=prunes)
    for text in flags.refused(sweep.resources.sbatch):
        yield "resources.sbatch", text
    if 2 * sweep.resources.warning_s > sweep.resources.time.total_seconds():
        yield "resources.warning", "leaves less than half of resources.time to trials: shorten it"
    yield from _sampler_contradictions(sweep)
    yield from _budget_contradictions(sweep)


def _command_contradictions(sweep: Sweep) -> Iterator[tuple[str, str]]:
    known = [*sweep.search_space.parameters, *TRIAL_PLACEHOLDERS]
    for word in sweep.command or ():
        for match in PLACEHOLDER.finditer(word):
            if match[1] is not None and match[1] not in known:
                hint = nearest(match[1], known)
                yield "command", f"{{{match[1]}}} is not in the search space; {hint}"
            if match[1] in sweep.search_space.when and match[0] == word:
                flag = match[1].rpartition(".")[2]
                yield (
                    "command",
                    f"{word} is not in every trial: write it with its flag, --{flag}={word}, which"
                    " is left out where there is none",
                )


def _sampler_contradictions(sweep: Sweep) -> Iterator[tuple[str, str]]:
    if sweep.start and isinstance(sweep.sampler, Listed):
        yield "start", f"{sweep.sampler.name} has its own points: leave 'start' out"
    if isinstance(sweep.sampler, Pbt):
        yield from _population_contradictions(sweep, sweep.sampler)
    if not isinstance(sweep.sampler, Cmaes):
        return
    if len(sweep.objectives) > 1:
        yield "sampler", "cmaes learns from one metric: nsga2, tpe and gp from several"
    if not any(
        isinstance(distribution, Float | Int) and name not in sweep.search_space.when
        for name, distribution in sweep.search_space.parameters.items()
    ):
        yield "sampler", "cmaes learns numbers that every trial has, and here are none: use tpe"


def _population_contradictions(sweep: Sweep, sampler: Pbt) -> Iterator[tuple[str, str]]:
    names, members = sweep.search_space.parameters, sampler.population
    if len(sweep.objectives) > 1:
        yield "sampler", "pbt compares one metric: give the metrics weights, or use nsga2"
    if not isinstance(sweep.pruner, NoPruner):
        yield "pruner", "pbt replaces what is bad by itself: leave 'pruner' out"
    for name in sampler.mutate or ():
        if not any(known == name or known.startswith(f"{name}.") for known in names):
            yield "sampler.mutate", f"{name} is not in the search space; {nearest(name, [*names])}"
    if not any(sampler.mutates(name) for name in names):
        yield "sampler", "pbt finds nothing to mutate: list names under 'mutate'"
    for key, given in (("workers", sweep.workers or 0), ("start", len(sweep.starts))):
        if given > members:
            yield key, f"{given} are more than the {members} members of sampler.population"
    if sweep.budget.trials is not None and sweep.budget.trials <= members:
        yield "budget", f"trials are members times generations, more than {members} for pbt"


def _budget_contradictions(sweep: Sweep) -> Iterator[tuple[str, str]]:
    given = sweep.budget.trials
    if isinstance(sweep.sampler, Grid):
        for name, distribution in sweep.search_space.parameters.items():
            try:
                distribution.grid()
            except ValueError as wrong:
                yield f"search_space.{name}", f"{wrong} (sampler: grid takes each value once)"
                return
        cells = sweep.search_space.size()
        if given not in (None, cells):
            yield "budget", f"the grid has {cells} cells, not {given}: leave 'trials' out"
    elif isinstance(sweep.sampler, Manual):
        points = sweep.sampler.trials
        if not points:
            yield "sampler", "manual: 'points' is empty: list at least one"
        if given not in (None, points):
            yield "budget", f"the list has {points} points, not {given}: leave 'trials' out"
    elif given is None:
        yield "budget", f"'trials' is missing: {sweep.sampler.name} needs a number of trials"
    elif len(sweep.starts) > given:
        yield "budget", f"{len(sweep.starts)} points to start with need as many trials, not {given}"
