"""The login node: one function a verb. Plans, writes, submits and returns; nothing stays running.

Everything here returns frozen values and prints nothing. Optuna is imported only by the verbs that
write to a study or need all its trials.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from hpoctl import config, modes, rundir, status
from hpoctl.assets import asset
from hpoctl.backends import local, slurm
from hpoctl.errors import BatchSystemError, ConfigError, HpoctlError, StudyError
from hpoctl.plan import JobArray, Limits, Plan, queue
from hpoctl.record import Summary, TaskRecord, TaskState, TrialRecord, TrialState
from hpoctl.rundir import Run, RunDir, Submission
from hpoctl.status import Status
from hpoctl.study.location import Location, locate
from hpoctl.study.summary import UnknownSchema, summarize
from hpoctl.sweep import BackendName, Mode, Sweep

if TYPE_CHECKING:
    from hpoctl.report import Report
    from hpoctl.study.store import Store

_POLL_S = 0.5


class Backend(Protocol):
    """What a module of `backends/` offers."""

    def script(self, array: JobArray, sweep: Sweep, run_dir: RunDir) -> str: ...
    def submit(
        self, script: Path, array: JobArray, run_dir: RunDir, *, after: str | None
    ) -> str: ...
    def find(self, script: Path) -> str | None: ...
    def tasks(self, ids: Sequence[str], run_dir: RunDir) -> tuple[TaskRecord, ...]: ...
    def cancel(self, ids: Sequence[str], run_dir: RunDir) -> None: ...
    def limits(self) -> Limits: ...


BACKENDS: dict[BackendName, Backend] = {BackendName.SLURM: slurm, BackendName.LOCAL: local}


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A sweep file with the flags that came with it."""

    sweep_file: Path
    overrides: tuple[str, ...] = ()
    run_dir: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A valid sweep, what would run, and the scripts that would be submitted by array."""

    sweep: Sweep
    plan: Plan
    run_dir: RunDir
    scripts: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """Arrays that a batch system has accepted; none, and why, where there was nothing to do."""

    study: str
    run_dir: Path
    submissions: tuple[Submission, ...]
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenRun:
    """A run that was submitted, found again."""

    run_dir: RunDir
    run: Run
    sweep: Sweep
    location: Location

    def summary(self) -> Summary:
        """The study at a glance; through Optuna where its tables are not known."""
        try:
            return summarize(self.location, self.run.study)
        except UnknownSchema:
            return self.store().summary()

    def store(self) -> Store:
        """The study, open for writing."""
        from hpoctl.study import store

        return store.open_(self.location, self.sweep)

    @property
    def backend(self) -> Backend:
        return BACKENDS[self.run.backend]


def open_run(study: str) -> OpenRun:
    """The run of a study: a name, a run directory, or `last`. Raises StudyError."""
    run_dir = rundir.find(study, os.environ)
    run = run_dir.run()
    sweep = config.load(run_dir.sweep_file, run.overrides)
    return OpenRun(
        run_dir=run_dir, run=run, sweep=sweep, location=_locate(sweep, run.workdir, run_dir)
    )


def _locate(sweep: Sweep, workdir: Path, run_dir: RunDir) -> Location:
    return locate(sweep.storage, workdir=workdir, journal=run_dir.journal, environ=os.environ)


def plan(request: Request) -> Planned:
    """Validates a sweep file and plans it; writes and submits nothing. Raises ConfigError."""
    sweep = config.load(request.sweep_file, request.overrides)
    backend = BACKENDS[sweep.backend]
    planned = modes.plan(sweep, backend.limits())
    folder = request.run_dir or Path("runs") / rundir.slug(sweep.study)
    run_dir = RunDir(folder.absolute())
    scripts = {array.name: backend.script(array, sweep, run_dir) for array in planned.arrays}
    return Planned(sweep=sweep, plan=planned, run_dir=run_dir, scripts=scripts)


def compare(request: Request) -> dict[Mode, Plan | str]:
    """The plan of a sweep in each mode, or why it cannot run in it."""
    sweep = config.load(request.sweep_file, request.overrides)
    limits = BACKENDS[sweep.backend].limits()
    plans: dict[Mode, Plan | str] = {}
    for mode, planner in modes.PLANNERS.items():
        try:
            plans[mode] = planner(sweep, limits)
        except ConfigError as refused:
            plans[mode] = str(refused)
    return plans


def submit(request: Request) -> Submitted:
    """Queues every trial and submits every array of a sweep; goes on where a kill cut it short.

    Raises ConfigError, StudyError or BatchSystemError; after an error that came before the first
    accepted array nothing of the sweep is left behind.
    """
    planned = plan(request)
    sweep, run_dir = planned.sweep, planned.run_dir
    text = request.sweep_file.read_text(encoding="utf-8")
    run = Run(
        study=sweep.study,
        mode=planned.plan.mode,
        backend=sweep.backend,
        trials=planned.plan.trials,
        arrays=planned.plan.arrays,
        overrides=request.overrides,
        workdir=Path.cwd(),
        created_at=time.time(),
    )
    _make_way(run_dir, text, run)
    from hpoctl.study import store

    resumed = run_dir.plan_file.exists()
    location = _locate(sweep, run.workdir, run_dir)
    store.create(location, sweep, queue(sweep), owner=str(run_dir.path))
    try:
        run_dir.create(text, run)
        for name, script in planned.scripts.items():
            run_dir.script(name).write_text(script, encoding="utf-8")
        submissions = _submit_arrays(run.arrays, run_dir, run, resumed=resumed)
    except HpoctlError:
        if not run_dir.submissions():
            _abandon(run_dir, location, run.study)
        raise
    rundir.remember(run_dir, os.environ)
    return Submitted(
        study=run.study, run_dir=run_dir.path, submissions=submissions, waiting=run.trials
    )


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
    if same and accepted < {array.name for array in run.arrays}:
        return
    if not accepted and before.study == run.study:
        sweep = config.load(run_dir.sweep_file, before.overrides)
        _abandon(run_dir, _locate(sweep, before.workdir, run_dir), before.study)
        return
    raise StudyError(
        f"{run_dir.path} holds study '{before.study}' already: 'hpoctl workers add"
        f" {before.study}' attaches workers, another 'study' name starts another one"
    )


def _submit_arrays(
    arrays: Sequence[JobArray], run_dir: RunDir, run: Run, *, resumed: bool
) -> tuple[Submission, ...]:
    """Submits the arrays that the ledger does not hold yet, each written down once accepted."""
    backend = BACKENDS[run.backend]
    accepted = {submission.array: submission for submission in run_dir.submissions()}
    for array in arrays:
        if array.name in accepted:
            continue
        script = run_dir.script(array.name)
        after = accepted[array.after].id if array.after else None
        known = backend.find(script) if resumed else None
        submission = Submission(
            array=array.name,
            id=known or backend.submit(script, array, run_dir, after=after),
            tasks=array.tasks,
            backend=run.backend,
            at=time.time(),
        )
        run_dir.append(submission)
        accepted[array.name] = submission
    return tuple(accepted[array.name] for array in arrays)


def _abandon(run_dir: RunDir, location: Location, study: str) -> None:
    """Takes back a study that no array was submitted for."""
    from hpoctl.study import store

    store.delete(location, study, owner=str(run_dir.path))
    shutil.rmtree(run_dir.path, ignore_errors=True)


def run(request: Request, watch: Callable[[Status], None]) -> Status:
    """Submits to this machine, calls `watch` now and then, returns when all workers have left.

    Ctrl-C ends the workers; what they had not begun stays queued.
    """
    here = Request(
        sweep_file=request.sweep_file,
        overrides=(*request.overrides, "backend=local"),
        run_dir=request.run_dir,
    )
    submitted = submit(here)
    try:
        while True:
            now = read_status(str(submitted.run_dir))
            watch(now)
            if not _alive(now):
                return now
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        cancel(str(submitted.run_dir))
        raise


def _alive(now: Status) -> bool:
    run_dir = RunDir(now.run_dir)
    ids = [submission.id for submission in run_dir.submissions()]
    tasks = BACKENDS[now.run.backend].tasks(ids, run_dir)
    return any(task.state is TaskState.RUNNING for task in tasks)


def add_workers(study: str, workers: int, resources: Sequence[str]) -> Submitted:
    """Attaches workers to a study, never more than trials wait; `resources` are overrides.

    Trials that were running on workers that are gone wait again before they are counted.
    """
    opened = open_run(study)
    _return_lost(opened)
    waiting = opened.summary().counts[TrialState.WAITING]
    run_dir, tasks = opened.run_dir, min(workers, waiting)
    if not tasks:
        return Submitted(study=opened.run.study, run_dir=run_dir.path, submissions=(), waiting=0)
    sweep = config.load(run_dir.sweep_file, (*opened.run.overrides, *resources))
    attached = sum(s.array.startswith("attached-") for s in run_dir.submissions())
    array = JobArray(name=f"attached-{attached + 1}", tasks=tasks)
    script = opened.backend.script(array, sweep, run_dir)
    run_dir.script(array.name).write_text(script, encoding="utf-8")
    submissions = _submit_arrays([array], run_dir, opened.run, resumed=False)
    return Submitted(
        study=opened.run.study, run_dir=run_dir.path, submissions=submissions, waiting=waiting
    )


def _return_lost(opened: OpenRun) -> None:
    """Queues trials of dead workers again. Unknown is not dead, and it takes two looks."""
    ids = [submission.id for submission in opened.run_dir.submissions()]
    if not opened.summary().counts[TrialState.RUNNING]:
        return
    live: set[str] = set()
    for look in range(2):
        time.sleep(look * _POLL_S)
        try:
            tasks = opened.backend.tasks(ids, opened.run_dir)
        except BatchSystemError:
            return
        live |= {task.task for task in tasks if task.state in status.LIVE}
    opened.store().return_lost(live)


def drain_workers(study: str) -> Status:
    """Asks all workers of a study to finish their trial and leave."""
    open_run(study).store().drain(time.time())
    return read_status(study)


def read_status(study: str) -> Status:
    """The study at a glance; changes nothing."""
    opened = open_run(study)
    summary = opened.summary()
    ids = [submission.id for submission in opened.run_dir.submissions()]
    tasks = _tasks(opened, ids)
    workers = status.join_workers(summary.workers, tasks)
    return Status(
        run=opened.run,
        run_dir=opened.run_dir.path,
        sweep=opened.sweep,
        storage=str(opened.location),
        summary=summary,
        workers=workers,
        gpu_hours=status.gpu_hours(summary.workers, tasks, time.time()),
        eta_s=status.eta_s(summary, workers),
    )


def _tasks(opened: OpenRun, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
    """What the batch system says; nothing where it does not answer, as the study still does."""
    try:
        return opened.backend.tasks(ids, opened.run_dir)
    except BatchSystemError:
        return ()


def cancel(study: str) -> Submitted:
    """Ends all arrays of a study; trials that wait stay in its queue."""
    opened = open_run(study)
    submissions = opened.run_dir.submissions()
    opened.backend.cancel([submission.id for submission in submissions], opened.run_dir)
    waiting = opened.summary().counts[TrialState.WAITING]
    return Submitted(
        study=opened.run.study,
        run_dir=opened.run_dir.path,
        submissions=submissions,
        waiting=waiting,
    )


def read_trials(study: str) -> tuple[list[TrialRecord], Sweep]:
    """All trials of a study by number, and its sweep."""
    opened = open_run(study)
    return opened.store().records(), opened.sweep


def read_best(study: str) -> TrialRecord:
    """The best complete trial. Raises StudyError while there is none."""
    opened = open_run(study)
    best = opened.summary().best
    if best is None:
        raise StudyError(f"study '{opened.run.study}' has no single best trial yet")
    return best


def read_log(study: str, number: int, *, follow: bool) -> Iterator[str]:
    """The log of a trial, piece by piece; with `follow` until the trial has ended."""
    opened = open_run(study)
    path = opened.run_dir.trial(number) / "log.txt"
    if not path.exists():
        raise StudyError(f"trial {number} of '{opened.run.study}' has not started: no {path}")
    with path.open(encoding="utf-8", errors="replace") as log:
        while True:
            running = {worker.trial for worker in opened.summary().workers} if follow else set()
            while piece := log.read(65_536):
                yield piece
            if number not in running:
                return
            time.sleep(_POLL_S)


def tell(values: Sequence[str], step: int | None, environ: Mapping[str, str]) -> bool:
    """Gives values to the worker of the surrounding trial; True if the trial should end."""
    address = environ.get("HPOCTL_SOCKET")
    if address is None:
        raise ConfigError("hpoctl tell works inside a trial: HPOCTL_SOCKET is not set")
    said: dict[str, float] = {} if step is None else {"step": step}
    for given in values:
        name, _, text = given.partition("=")
        try:
            said[name] = float(text)
        except ValueError:
            raise ConfigError(f"{given}: write NAME=NUMBER, such as eval_loss=2.31") from None
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        line.sendall(json.dumps(said).encode() + b"\n")
        answer = line.makefile().readline()
    return bool(json.loads(answer)["prune"])


def write_report(study: str, out: Path | None) -> Report:
    """Writes tables, plot and one folder a trial; into the run directory unless `out` is given."""
    from hpoctl import report

    opened = open_run(study)
    return report.write(
        opened.store().records(),
        opened.sweep.metrics,
        report_dir=out or opened.run_dir.report,
        results_dir=out / "trial_results" if out else opened.run_dir.results,
        trials_dir=opened.run_dir.trials,
    )


def init(folder: Path) -> tuple[Path, ...]:
    """Writes a starter sweep and its objective; never over a file. Raises ConfigError."""
    starters = [entry for entry in asset("templates/starter").iterdir() if entry.is_file()]
    for starter in starters:
        if (folder / starter.name).exists():
            raise ConfigError(f"{folder / starter.name} is there already: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for starter in starters:
        (folder / starter.name).write_text(starter.read_text(encoding="utf-8"), encoding="utf-8")
    return tuple(sorted(folder / starter.name for starter in starters))
