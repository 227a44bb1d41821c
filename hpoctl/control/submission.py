"""From a sweep file to accepted job arrays; a submission that was killed goes on."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from hpoctl import arrays, config, modes, rundir
from hpoctl.arrays import BACKENDS
from hpoctl.control import storage
from hpoctl.control.opened import Submitted, locate_study
from hpoctl.errors import BatchSystemError, ConfigError, HpoctlError, StudyError
from hpoctl.fit import at_once
from hpoctl.limits import Limits
from hpoctl.plan import Plan, queue
from hpoctl.rundir import Run, RunDir, Submission
from hpoctl.samplers import Qmc, missing_packages
from hpoctl.study.location import Location
from hpoctl.sweep import Sweep
from hpoctl.trial import Infeasible
from hpoctl.words import Mode

_LATELY_S = 600.0  # so old may the limits be by which a plan is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sweep file with the flags that came with it; trials run in `workdir`, or in this folder."""

    sweep_file: Path
    overrides: tuple[str, ...] = ()
    run_dir: Path | None = None
    workdir: Path | None = None

    @property
    def home(self) -> Path:
        return self.workdir or Path.cwd()


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A valid sweep, what would run, and the scripts that would be submitted by array.

    `notes` are what a user should look at before submitting.
    """

    sweep: Sweep
    plan: Plan
    run_dir: RunDir
    scripts: dict[str, str]
    notes: tuple[str, ...]


def plan(request: Request) -> Planned:
    """Validates a sweep file and plans it; writes and submits nothing. Raises ConfigError."""
    sweep = config.load(request.sweep_file, request.overrides)
    return _plan(request, sweep, _within_limits(sweep, lambda limits: modes.plan(sweep, limits)))


T = TypeVar("T")


def _within_limits(sweep: Sweep, decide: Callable[[Limits], T]) -> T:
    """What comes of the limits that were read lately; before a refusal they are read anew."""
    backend, begun = BACKENDS[sweep.backend], time.time()
    lately = backend.limits(newer_than=begun - _LATELY_S)
    try:
        return decide(lately)
    except ConfigError:
        now = backend.limits(newer_than=begun)
        if now == lately:
            raise
        return decide(now)


def _plan(request: Request, sweep: Sweep, planned: Plan) -> Planned:
    _check_objective(request, sweep)
    backend = BACKENDS[sweep.backend]
    folder = request.run_dir or Path("runs") / rundir.slug(sweep.study)
    run_dir = RunDir(folder.absolute())
    of_storage = _storage_notes(request, sweep, planned, run_dir)
    of_sampler = _sampler_notes(request, sweep)
    scripts = {array.name: backend.script(array, sweep, run_dir) for array in planned.arrays}
    return Planned(
        sweep=sweep,
        plan=planned,
        run_dir=run_dir,
        scripts=scripts,
        notes=(*planned.notes, *of_storage, *of_sampler, *_objective_notes(sweep, request.home)),
    )


def _storage_notes(
    request: Request, sweep: Sweep, planned: Plan, run_dir: RunDir
) -> tuple[str, ...]:
    """The limits of the storage; nothing where only the environment of `submit` will name it."""
    try:
        location = locate_study(sweep.gist, request.home, run_dir)
    except StudyError:
        return ()
    workers = at_once(planned)
    storage.refuse_several_machines(sweep, location, workers, request.sweep_file, request.overrides)
    return storage.notes(sweep, location, workers)


def _sampler_notes(request: Request, sweep: Sweep) -> tuple[str, ...]:
    """What of the sampler's packages is not here. Raises ConfigError where it is needed here."""
    missing, resources = missing_packages(sweep.sampler), sweep.resources
    if not missing:
        return ()
    needs = f"{sweep.sampler.name} needs {missing}, which {sys.executable} lacks"
    elsewhere = resources.python is not None or bool(resources.setup)
    if elsewhere and not isinstance(sweep.sampler, Qmc):  # whose points are drawn here
        return (f"sampler: {needs}: the workers must find them",)
    message = f"{needs}: python -m pip install {missing.replace(' and ', ' ')}"
    raise config.complain(request.sweep_file, request.overrides, "sampler", message)


def _check_objective(request: Request, sweep: Sweep) -> None:
    """Raises ConfigError where an objective of ours could not use what the sweep file says."""
    if sweep.objective is None or not sweep.objective.startswith("hpoctl.objectives."):
        return
    from hpoctl import objectives  # which no sweep of one's own objective needs here

    try:
        objectives.check(sweep)
    except (ValueError, Infeasible) as wrong:
        place, _, said = str(wrong).partition(": ")
        group = place.split(".")[0]
        searched = any(name.split(".")[0] == group for name in sweep.search_space.parameters)
        if place in ("metrics", "constraints", "objective") or not said:
            key = place if said else "objective_args"
        elif group in sweep.objective_args and (
            place not in sweep.search_space.parameters or _is_well_without(sweep, place)
        ):
            key = f"objective_args.{place}"
        else:
            key = f"search_space.{place}" if searched else f"objective_args.{place}"
        text = said or str(wrong)
        raise config.complain(request.sweep_file, request.overrides, key, text) from wrong


def _is_well_without(sweep: Sweep, place: str) -> bool:
    """Whether an objective of ours could use the sweep without a value of its `objective_args`."""
    from hpoctl import objectives

    group, _, name = place.partition(".")
    given = sweep.objective_args.get(group)
    if not isinstance(given, Mapping) or name not in given:
        return False
    others = {key: value for key, value in given.items() if key != name}
    args = {**sweep.objective_args, group: others}
    try:
        objectives.check(sweep.model_copy(update={"objective_args": args}))
    except (ValueError, Infeasible):
        return False
    return True


def _objective_notes(sweep: Sweep, home: Path) -> tuple[str, ...]:
    """What the workers will have to find elsewhere: a module, or what lies on a hub."""
    if sweep.objective is None:
        return ()
    if sweep.objective.startswith("hpoctl.objectives."):
        from hpoctl import objectives  # which no sweep of one's own objective needs here

        asked = ", ".join(objectives.to_fetch(sweep))
        note = f"hub: {asked}: no such folder here, so the workers ask the hub for it"
        return (f"{note}; 'hpoctl prefetch' fetches it here and now",) if asked else ()
    package = sweep.objective.partition(":")[0].partition(".")[0]
    here = any((home / name).exists() for name in (package, f"{package}.py"))
    if here or importlib.util.find_spec(package) is not None:
        return ()
    return (f"objective: no module '{package}' in this folder or among the packages here",)


def compare(request: Request) -> dict[Mode, Plan | str]:
    """The plan of a sweep in each mode, or why it cannot run in it."""
    sweep = config.load(request.sweep_file, request.overrides)
    plans: dict[Mode, Plan | str] = {}
    for mode in Mode:
        try:
            planned = _within_limits(sweep, partial(modes.plan, sweep, mode=mode))
            _storage_notes(request, sweep, planned, RunDir(Path.cwd()))
            plans[mode] = planned
        except ConfigError as refused:
            plans[mode] = str(refused)
    return plans


def submit(request: Request) -> Submitted:
    """Queues every trial and submits every array of a sweep; goes on where a kill cut it short.

    Raises ConfigError, StudyError or BatchSystemError; after an error that came before the first
    accepted array nothing of the sweep is left behind.
    """
    sweep = config.load(request.sweep_file, request.overrides)
    limits = BACKENDS[sweep.backend].limits(newer_than=time.time())  # what they shape is for good
    planned = _plan(request, sweep, modes.plan(sweep, limits))
    run_dir = planned.run_dir
    text = request.sweep_file.read_text(encoding="utf-8")
    run = Run(
        study=sweep.study,
        mode=planned.plan.mode,
        backend=sweep.backend,
        trials=planned.plan.trials,
        arrays=planned.plan.arrays,
        overrides=request.overrides,
        workdir=request.home,
        created_at=time.time(),
        gist=sweep.gist,
        fed=planned.plan.fed,
    )
    _make_way(run_dir, text, run)
    from hpoctl.study import store

    resumed = run_dir.plan_file.exists()
    location = locate_study(sweep.gist, run.workdir, run_dir)
    folders = (run_dir.path, *run_dir.path.parents)
    made = [folder for folder in folders if not folder.exists()]
    run_dir.make()
    try:
        store.create(location, sweep, queue(sweep), owner=str(run_dir.path))
    except HpoctlError:
        with suppress(OSError):  # something of it may be worth a look
            for folder in made:
                folder.rmdir()
        raise
    try:
        run_dir.create(text, run)
        for name, script in planned.scripts.items():
            run_dir.script(name).write_text(script, encoding="utf-8")
        submissions = arrays.hand_over(
            run.arrays, sweep, run_dir, run.backend, caps=run.fed, resumed=resumed
        )
        if not submissions:
            raise BatchSystemError(
                f"nothing submitted, as no task may be now: {arrays.full(run.fed)}"
            )
    except HpoctlError:
        if not run_dir.submissions():
            _abandon(run_dir, location, run)
        raise
    rundir.remember(run_dir, os.environ)
    return Submitted(
        study=run.study,
        run_dir=run_dir.path,
        submissions=submissions,
        waiting=run.trials,
        notes=_fed_notes(run, submissions),
    )


def _fed_notes(run: Run, submissions: Sequence[Submission]) -> tuple[str, ...]:
    """What is to be said where not all arrays are submitted yet."""
    here, whole = (sum(a.tasks for a in arrays) for arrays in (submissions, run.arrays))
    if here == whole:
        return ()
    least = min(run.fed, key=lambda cap: cap.value)
    count = f"{here:,} of {whole:,} tasks submitted, the others follow as these end"
    if least.value == 1:
        count = f"{here:,} of {whole:,} tasks submitted: 'hpoctl submit' again when it has ended"
    return (f"{count} ({least.name} {least.value})",)


def _make_way(run_dir: RunDir, text: str, run: Run) -> None:
    """Refuses a second submission of a run, but lets an unfinished one go on or be replaced."""
    if not run_dir.plan_file.exists():
        return
    before = run_dir.run()
    accepted = {submission.array for submission in run_dir.submissions()}
    same = (text, run.overrides, run.study) == (
        run_dir.sweep_file.read_text(encoding="utf-8"),
        before.overrides,
        before.study,
    )
    if same and {array.name for array in run.arrays} - accepted:
        return
    if not accepted and before.study == run.study:
        gist = before.gist or config.load(run_dir.sweep_file, before.overrides).gist
        _abandon(run_dir, locate_study(gist, before.workdir, run_dir), before)
        return
    raise StudyError(
        f"{run_dir.path} holds study '{before.study}' already: 'hpoctl workers add"
        f" {before.study}' attaches workers, 'hpoctl extend {before.study}' gives it more trials,"
        " another 'study' name starts another one, with what the sweep file says now"
    )


def _abandon(run_dir: RunDir, location: Location, run: Run) -> None:
    """Takes back a study that no array was submitted for."""
    from hpoctl.study import store

    store.delete(location, run.study, owner=str(run_dir.path))
    run_dir.remove(run)
