"""A final model with its card, put where it was asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from hpoctl import config, derive
from hpoctl.card import Card, data_files, from_hub
from hpoctl.control.derived import keys_of
from hpoctl.control.opened import OpenRun, open_run
from hpoctl.errors import ConfigError
from hpoctl.metrics import Metric
from hpoctl.objectives.causal_lm.hub import read_model
from hpoctl.record import TrialRecord
from hpoctl.rundir import RunDir
from hpoctl.space import nest

_PROVENANCE = "provenance.json"
_OWN = ("attempt", "task", "life", "node", "gpus", "seed", "error", "cause", "retry_of")


def refuse_output(output: Path | None, study: str) -> None:
    """Raises ConfigError where a folder holds something else than an earlier model of the study."""
    if output is None or not output.exists():
        return
    if not output.is_dir():
        raise ConfigError(f"{output}: is no folder")
    there = output / _PROVENANCE
    if there.exists() and json.loads(there.read_text())["study"] == study:
        return
    if any(output.iterdir()):
        raise ConfigError(f"{output}: holds something already: name a folder that is empty or new")


def make_card(opened: OpenRun, run_dir: RunDir, record: TrialRecord, place: int) -> Card:
    """What there is to say of a trial in `run_dir`, the list's at this place, and of its search."""
    sweep, search = open_run(str(run_dir.path)).sweep(), opened.sweep()
    origin = sweep.origin
    assert origin is not None, "derived"
    trial = origin.trials[min(place, len(origin.trials) - 1)]
    records = opened.store().records()
    won = next(found for found in records if found.number == trial)
    data = _group(sweep.objective_args, "dataset")
    args, params = search.objective_args, nest(won.params)
    base = {**_group(args, "model"), **_group(params, "model")}.get("pretrained")
    settings = {name: value for name, value in args.items() if name not in ("dataset", "save")}
    seed = record.attrs.get("seed")
    return Card(
        title=sweep.study,
        study=opened.run.study,
        trial=trial,
        trials=len(records),
        name=sweep.study,
        number=record.number,
        objective=search.objective or " ".join(search.command or ()),
        searched=_values(won, [metric.name for metric in search.objectives]),
        final=_values(record, [metric.name for metric in sweep.objectives]),
        chosen_by=_rule(search.objectives, origin.by),
        test_split=data.get("evaluate_on") == "test",
        language_model=derive.is_causal_lm(keys_of(opened, ())),
        base=None if base is None else str(base),
        base_on_hub=_is_on_hub(base, opened.run.workdir),
        adapter="lora" in args or "lora" in params,
        params=config.dump(params),
        settings=config.dump(settings) if settings else "",
        data=config.dump(data or {"objective_args": dict(sweep.objective_args)}),
        files=tuple(data_files(data, opened.run.workdir)),
        hub=from_hub(run_dir.trial(record.number)),
        seed=seed if isinstance(seed, int) else None,
        version=version("hpoctl"),
        commit=origin.commit,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _group(tree: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = tree.get(name, {})
    return found if isinstance(found, Mapping) else {}


def _is_on_hub(base: object, workdir: Path) -> bool:
    """Whether a model's name is a hub's, `owner/name…`, and no folder or file of this machine."""
    found = None if base is None else read_model(str(base))
    if found is None or "/" not in found.name:
        return False
    return not (workdir / Path(str(base)).expanduser()).exists()


def _rule(metrics: Sequence[Metric], by: str | None) -> str:
    """In words, by what a trial was the best one."""
    goals = {"minimize": "less", "maximize": "more"}
    words = [f"`{metric.name}` ({goals[metric.goal]} is better)" for metric in metrics]
    named = [word for word, metric in zip(words, metrics, strict=True) if metric.name == by]
    return " and ".join(named or words)


def _values(record: TrialRecord, metrics: Sequence[str]) -> dict[str, float]:
    """What the objective returned: metrics, and what was kept beside them."""
    values = dict(zip(metrics, record.values or (), strict=False))
    extras = {
        name: value
        for name, value in record.attrs.items()
        if name not in _OWN and isinstance(value, int | float) and not isinstance(value, bool)
    }
    return {**values, **extras}


def deliver(card: Card, parts: Mapping[str, Path], folder: Path, output: str | None) -> Path:
    """Writes the card into `folder`; with an output copies the parts and the card there, at once.

    An earlier model of the same study there is replaced. Files get the rights that new ones have:
    safetensors leaves weights that nobody else may read.
    """
    texts = {
        "README.md": card.text(),
        _PROVENANCE: json.dumps(asdict(card), indent=2) + "\n",
    }
    for file, text in texts.items():
        (folder / file).write_text(text, encoding="utf-8")
    if output is None:
        return folder
    target = Path(output)
    refuse_output(target, card.study)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name, part in parts.items():
        shutil.copytree(part, partial / name, copy_function=shutil.copyfile)
    for file, text in texts.items():
        (partial / file).write_text(text, encoding="utf-8")
    if target.exists():
        shutil.rmtree(target)
    partial.replace(target)
    return target
