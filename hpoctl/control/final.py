"""`train`: the final model of a search, or an ensemble of its best, with a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hpoctl import derive, rundir
from hpoctl.card import Member, commit_of
from hpoctl.control.confirmation import read_confirmation
from hpoctl.control.delivery import deliver, make_card, refuse_output
from hpoctl.control.derived import (
    Watch,
    await_end,
    begin,
    beside,
    keys_of,
    origin_of,
    rehearse,
    results,
    why_failed,
)
from hpoctl.control.opened import OpenRun, Submitted, open_run
from hpoctl.control.submission import Planned
from hpoctl.control.winners import chosen, metric_place, winners
from hpoctl.errors import ConfigError, StudyError
from hpoctl.record import TrialRecord, TrialState
from hpoctl.rundir import RunDir
from hpoctl.words import OriginKind, many

_OF_THE_MEMBERS = ("objective", "search_space", "metrics", "command")
_MODEL = "model"  # the folder that a trial leaves its model in


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRequest:
    """What `train` was asked for: the best trial, this one, or so many `members` of an ensemble.

    Best `by` a metric of several, or `compromise`.
    """

    study: str
    trial: int | None = None
    members: int | None = None
    by: str | None = None
    output: Path | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How far the final training is; `folder` holds the model once there is one.

    `searched` and `final` are values by metric: of the search, and of the final evaluation.
    """

    study: str
    name: str
    run_dir: Path
    trials: tuple[int, ...]
    unfinished: int
    folder: Path | None = None
    searched: Mapping[str, float]
    final: Mapping[str, float]
    members: tuple[Member, ...] = ()
    submitted: Submitted | None = None


def train(wanted: TrainRequest, watch: Watch | None = None) -> Trained:
    """Trains the final model in a study of its own; called again, collects it with its card.

    Waits for the end where somebody watches. With an ensemble the members are trained first; the
    call after they have ended evaluates them together. Raises StudyError where a training failed.
    """
    wanted, opened = _places(wanted)
    opened.refuse_strangers()
    name = _name(wanted, opened.run.study)
    run_dir = beside(opened, name)
    refuse_output(wanted.output, opened.run.study)
    submitted = begin(run_dir, opened.run.workdir, lambda: _text(wanted, opened, name))
    await_end(run_dir, watch)
    trained = _so_far(opened, run_dir, submitted)
    if trained.unfinished:
        return trained
    if wanted.members is not None:
        return _together(wanted, opened, run_dir, watch)
    return _collect(opened, run_dir, submitted)


def rehearse_train(wanted: TrainRequest) -> tuple[str, Planned]:
    """The sweep file that `train` would submit first, and its plan."""
    wanted, opened = _places(wanted)
    name = _name(wanted, opened.run.study)
    text = _text(wanted, opened, name)
    return text, rehearse(beside(opened, name), opened.run.workdir, text)


def _places(wanted: TrainRequest) -> tuple[TrainRequest, OpenRun]:
    """The search that is meant: a study that was made of one stands for it.

    Of a confirmation it is the trial with the best mean, which need not be the search's.
    """
    opened = open_run(wanted.study)
    origin = origin_of(opened.run_dir)
    if origin is None or origin.run_dir is None:
        return wanted, opened
    search = open_run(origin.run_dir)
    plain = wanted.trial is None and wanted.members is None
    if origin.kind is OriginKind.CONFIRM and plain:
        confirmation = read_confirmation(wanted.study)
        assert confirmation is not None, "it is one"
        if confirmation.unfinished:
            raise StudyError(f"study '{opened.run.study}' has not ended yet: wait, or name --trial")
        return replace(wanted, trial=confirmation.comparison.winners[0].trial), search
    wanted = replace(wanted, by=wanted.by or origin.by)
    if origin.kind in (OriginKind.FINAL, OriginKind.ENSEMBLE) and plain:
        if len(origin.trials) > 1:
            return replace(wanted, members=len(origin.trials)), search
        if _name(wanted, search.run.study) != opened.run.study:
            return replace(wanted, trial=origin.trials[0], by=None), search
    return wanted, search


def _name(wanted: TrainRequest, study: str) -> str:
    by = "" if wanted.by is None else f"-{rundir.slug(wanted.by)}"
    if wanted.members is not None:
        return f"{study}-final-top{wanted.members}{by}"
    return f"{study}-final" + (f"-{wanted.trial}" if wanted.trial is not None else by)


def _text(wanted: TrainRequest, opened: OpenRun, name: str) -> str:
    tree = keys_of(opened, wanted.overrides)
    if wanted.members is not None and not derive.is_causal_lm(tree):
        raise ConfigError(
            f"--ensemble averages the predictions of {derive.CAUSAL_LM} only: train the members one"
            " by one with --trial, and average what they predict in a program of your own"
        )
    if wanted.trial is not None:
        found = chosen(opened, [wanted.trial])
    else:
        found = winners(opened, wanted.members or 1, wanted.by)
    if wanted.members is not None and len(found) < max(2, wanted.members):
        of = "" if wanted.by is None else " on the front"
        raise ConfigError(
            f"--ensemble {wanted.members}: complete is no more than"
            f" {many(len(found), 'different trial')}{of}"
        )
    origin = _origin(OriginKind.FINAL, wanted, opened, found)
    derived = derive.final(tree, [record.params for record in found], origin, study=name)
    return derive.text(derived, name, wanted.overrides)


def _origin(
    kind: OriginKind, wanted: TrainRequest, opened: OpenRun, found: Sequence[TrialRecord]
) -> dict[str, object]:
    output = None if wanted.output is None else str(wanted.output.absolute())
    return derive.origin(
        kind,
        opened.run.study,
        run_dir=str(opened.run_dir.path),
        trials=[record.number for record in found],
        values=[
            record.values[metric_place(opened, wanted.by)] for record in found if record.values
        ],
        by=wanted.by,
        output=output,
        commit=commit_of(opened.run.workdir),
    )


def _so_far(opened: OpenRun, run_dir: RunDir, submitted: Submitted | None) -> Trained:
    origin = origin_of(run_dir)
    assert origin is not None, "derived"
    _, unfinished = results(run_dir)
    return Trained(
        study=opened.run.study,
        name=run_dir.run().study,
        run_dir=run_dir.path,
        trials=origin.trials,
        unfinished=unfinished,
        searched={},
        final={},
        submitted=submitted,
    )


def _completed(run_dir: RunDir) -> dict[int, TrialRecord]:
    """The trials of a derived study by place. Raises StudyError for one that is not complete."""
    found, _ = results(run_dir)
    for record in found.values():
        if record.state is not TrialState.COMPLETE:
            raise why_failed(run_dir, record)
    return found


def _collect(opened: OpenRun, run_dir: RunDir, submitted: Submitted | None) -> Trained:
    """The final model with its card, copied to where it was asked for."""
    [(place, record)] = _completed(run_dir).items()
    card = make_card(opened, run_dir, record, place)
    left = run_dir.trial(place)
    folder = left / _MODEL if (left / _MODEL).is_dir() else left
    origin = origin_of(run_dir)
    assert origin is not None, "derived"
    return replace(
        _so_far(opened, run_dir, submitted),
        folder=deliver(card, {"": folder}, folder, origin.output),
        searched=card.searched,
        final=card.final,
    )


def _together(
    wanted: TrainRequest, opened: OpenRun, members_dir: RunDir, watch: Watch | None
) -> Trained:
    """The members' predictions averaged, in a study of its own; then their folders with a card."""
    trained = _completed(members_dir)
    folders = [members_dir.trial(place) / _MODEL for place in sorted(trained)]
    by = "" if wanted.by is None else f"-{rundir.slug(wanted.by)}"
    name = f"{opened.run.study}-ensemble-top{len(folders)}{by}"
    run_dir = beside(opened, name)
    of_members = origin_of(members_dir)
    assert of_members is not None, "derived"

    def write() -> str:
        found = chosen(opened, of_members.trials, wanted.by)
        origin = _origin(OriginKind.ENSEMBLE, wanted, opened, found)
        origin["output"] = of_members.output
        texts = [str(folder) for folder in folders]
        kept = {key: value for key, value in origin.items() if value is not None}
        points = [trained[place].params for place in sorted(trained)]
        # What was trained is there already; these may still say where and how it is evaluated.
        flags = [flag for flag in wanted.overrides if not flag.startswith(_OF_THE_MEMBERS)]
        derived = derive.ensemble(
            keys_of(opened, wanted.overrides), texts, points, kept, study=name
        )
        return derive.text(derived, name, flags)

    submitted = begin(run_dir, opened.run.workdir, write)
    await_end(run_dir, watch)
    so_far = _so_far(opened, run_dir, submitted)
    if so_far.unfinished:
        return so_far
    [(place, record)] = _completed(run_dir).items()
    card = make_card(opened, run_dir, record, place)
    members = tuple(
        Member(
            folder=f"member-{i}",
            trial=trial,
            params=", ".join(f"{name} {value}" for name, value in trained[i].params.items()),
            loss=card.final.get(f"member_{i}_eval_loss"),
            accuracy=card.final.get(f"member_{i}_eval_accuracy"),
        )
        for i, trial in enumerate(of_members.trials)
    )
    together = {name: card.final[name] for name in card.final if not name.startswith("member_")}
    card = replace(card, final=together, members=members)
    parts = {member.folder: folder for member, folder in zip(members, folders, strict=True)}
    folder = deliver(card, parts, run_dir.trial(place), of_members.output)
    done = replace(so_far, folder=folder, searched=card.searched, final=card.final)
    return replace(done, members=members)
