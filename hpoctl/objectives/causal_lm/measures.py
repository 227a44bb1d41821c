"""The group `measure`: what is measured of a trial beyond what training tells anyway.

Each of these costs a pass over the evaluation text or a run of its own, so it has to be asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from hpoctl.objectives.causal_lm.values import check_names, group, whole

AT_STEPS = ("eval_loss", "eval_accuracy", "perplexity")
"""Known at every evaluation; the rest at the end of the trial."""

FREE = (
    *AT_STEPS,
    *("tokens_per_second", "samples_per_second", "train_seconds", "gpu_hours"),
    *("memory_gb", "host_memory_gb", "parameters", "trainable_parameters", "model_mb"),
)
_ASKED_FOR = {"kl": "{kl: base}", "latency_s": "{latency: {}}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How inference is timed: the median of `repeats` runs after `warmup` runs."""

    batch: int = 1
    prompt_length: int = 32  # tokens
    new_tokens: int = 16  # exactly: no run ends early
    warmup: int = 2
    repeats: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is asked for; None is not measured."""

    kl: str | None = None  # 'base', or the teacher's name or folder
    latency: Latency | None = None


def read(measure: Mapping[str, object]) -> Measure:
    """The group `measure` as a value, defaults filled in. Raises ValueError."""
    check_names(measure, [field.name for field in fields(Measure)], "measure.")
    kl = measure.get("kl")
    if kl is not None and not isinstance(kl, str):
        raise ValueError(f"measure.kl: is {kl!r}, but must be 'base' or a teacher's name or folder")
    return Measure(kl=kl, latency=_latency(measure) if "latency" in measure else None)


def _latency(measure: Mapping[str, object]) -> Latency:
    given = {**asdict(Latency()), **group(measure, "latency")}
    check_names(given, [field.name for field in fields(Latency)], "measure.latency.")
    least = {"warmup": 0}
    return Latency(
        **{
            name: whole(f"measure.latency.{name}", value, least.get(name, 1))
            for name, value in given.items()
        }
    )


def check_metrics(wanted: Sequence[str], measure: Measure, place: str = "metrics") -> None:
    """Raises ValueError for a metric that this trial would not measure."""
    measured = {"kl": measure.kl, "latency_s": measure.latency}
    asked = [name for name, value in measured.items() if value is not None]
    check_known(wanted, FREE, _ASKED_FOR, asked, place)


def check_known(
    wanted: Sequence[str],
    free: Sequence[str],
    at_a_price: Mapping[str, str],
    asked: Sequence[str],
    place: str = "metrics",
) -> None:
    """Raises ValueError for a metric that has to be asked for and was not, or that is misspelt.

    Any other name may be that of an objective which calls this one.
    """
    known = [*free, *at_a_price]
    for name in wanted:
        if name in at_a_price and name not in asked:
            raise ValueError(
                f"{place}: '{name}' is measured only where it is asked for: add"
                f" 'measure: {at_a_price[name]}' to objective_args"
            )
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        if close and name not in known:
            raise ValueError(f"{place}: '{name}' is not measured; did you mean '{close[0]}'?")
