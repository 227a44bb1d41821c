"""The run directory: what a submission leaves on the shared disk, and how a study is found again.

`sweep.yaml` (verbatim), `plan.json`, `further.jsonl` (arrays that joined the plan's), `<array>.sh`,
`submissions.jsonl` (one line appended after every accepted submission), `extensions.jsonl` (two
lines an `extend`), `logs/`, `trials/00007/`, `spool/` (results on their way to the study),
`report/`, `trial_results/`. It holds no password and nothing that the study or Slurm knows better.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpoctl.errors import ConfigError, StudyError
from hpoctl.plan import JobArray
from hpoctl.words import BackendName, Gist, Mode, StorageKeys

if TYPE_CHECKING:
    from hpoctl.limits import Cap
    from hpoctl.sweep import Budget

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What `submit` decided, as kept in plan.json; no gist in one of an earlier release.

    `trials` is the budget as it is now, after every `extend`; `raised_at` is when the one of time
    or of GPU-hours was raised last.
    """

    study: str
    mode: Mode
    backend: BackendName
    trials: int
    arrays: tuple[JobArray, ...]
    overrides: tuple[str, ...]
    workdir: Path
    created_at: float
    gist: Gist | None = None
    fed: tuple[Cap, ...] = ()
    raised_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One accepted array: its id in the batch system, its tasks, how many at once, after which."""

    array: str
    id: str
    tasks: int
    backend: BackendName
    at: float
    at_once: int | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """A budget of `trials` in all, in the words it was asked for; `done` once they are queued.

    `time_s`, from the submission, and `gpu_hours` in all are None where they never were raised;
    `raised_at` is when one of them last was.
    """

    asked: str
    trials: int
    at: float
    done: bool
    time_s: float | None = None
    gpu_hours: float | None = None
    raised_at: float = 0.0


def slug(study: str) -> str:
    """The study's name as a safe name of a file or a Slurm job; distinct names stay distinct."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", study).strip("-.")[:60]
    if safe == study:
        return safe
    return f"{safe or 'study'}-{hashlib.sha256(study.encode()).hexdigest()[:6]}"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Names of the files in one run directory; an absolute path."""

    path: Path

    @property
    def sweep_file(self) -> Path:
        return self.path / "sweep.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def ledger(self) -> Path:
        return self.path / "submissions.jsonl"

    @property
    def further_file(self) -> Path:
        return self.path / "further.jsonl"

    @property
    def extensions_file(self) -> Path:
        return self.path / "extensions.jsonl"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def trials(self) -> Path:
        return self.path / "trials"

    @property
    def spool(self) -> Path:
        return self.path / "spool"

    @property
    def report(self) -> Path:
        return self.path / "report"

    @property
    def results(self) -> Path:
        return self.path / "trial_results"

    @property
    def journal(self) -> Path:
        return self.path / "study.journal"

    def asked(self, program: str) -> Path:
        """The last answer of one of the batch system's programs, shared by all who ask."""
        return self.path / f".{program}.json"

    def script(self, array: str) -> Path:
        return self.path / f"{array}.sh"

    def trial(self, number: int) -> Path:
        return self.trials / f"{number:05d}"

    def undelivered(self) -> int:
        """How many results wait in the spool for somebody who tells the study."""
        return sum(1 for _ in self.spool.glob("*.json"))

    def make(self) -> None:
        """Makes the folder for its owner only; who shares it opens it later, and it stays so.

        Raises ConfigError where it cannot be.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as wrong:
            raise ConfigError(
                f"{self.path}: cannot be made: {wrong.strerror}: name another place by --run-dir"
            ) from wrong

    def create(self, sweep_text: str, run: Run) -> None:
        """Makes the folder, its text and its plan; plan.json comes last and makes it a run."""
        self.make()
        for folder in (self.logs, self.trials):
            folder.mkdir(parents=True, exist_ok=True)
        self.sweep_file.write_text(sweep_text, encoding="utf-8")
        partial = self.plan_file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(run), indent=2, default=str) + "\n")
        partial.replace(self.plan_file)

    def remove(self, run: Run) -> None:
        """Takes away a run that was never submitted; what is not of the run stays, and its folder.

        The sweep file goes, so one that was written elsewhere is untouched.
        """
        scripts = [self.script(array.name) for array in run.arrays]
        journal = self.path.glob(f"{self.journal.name}*")
        locks = self.path.glob(f"{self.plan_file.name}.lock*")
        ledgers = (self.ledger, self.further_file)
        for file in (*scripts, *journal, *locks, self.sweep_file, *ledgers, self.plan_file):
            file.unlink(missing_ok=True)
        for folder in (self.logs, self.trials, self.path):
            with suppress(OSError):  # not empty, so not only ours
                folder.rmdir()

    def run(self) -> Run:
        """What `submit` decided. Raises StudyError where there is no run."""
        try:
            given = json.loads(self.plan_file.read_text())
        except FileNotFoundError:
            raise StudyError(f"{self.path}: not a run directory, plan.json is missing") from None
        extension = self.extension()
        return Run(
            study=given["study"],
            mode=Mode(given["mode"]),
            backend=BackendName(given["backend"]),
            trials=given["trials"] if extension is None else extension.trials,
            arrays=tuple(_array(array) for array in given["arrays"]),
            overrides=tuple(given["overrides"]),
            workdir=Path(given["workdir"]),
            created_at=given["created_at"],
            gist=_gist(given.get("gist"), extension),
            fed=_caps(given.get("fed") or ()),
            raised_at=0.0 if extension is None else extension.raised_at,
        )

    def note_cancel(self, at: float) -> None:
        """Keeps when the run's arrays were last ended on purpose."""
        (self.path / "cancelled_at").write_text(f"{at}\n")

    def cancelled_at(self) -> float:
        """When the run's arrays were last ended on purpose; 0.0 if never."""
        return _noted(self.path / "cancelled_at")

    def note_withdrawal(self, at: float) -> None:
        """Keeps when others came in place of the arrays that were not submitted yet."""
        (self.path / "withdrawn_at").write_text(f"{at}\n")

    def given_up_at(self) -> float:
        """What was planned before then and was not submitted will not be; 0.0 if never."""
        return max(self.cancelled_at(), _noted(self.path / "withdrawn_at"))

    def join(self, arrays: Iterable[JobArray], at: float) -> None:
        """Plans these arrays too, behind those that are planned."""
        for array in arrays:
            _append(self.further_file, {"at": at, "array": asdict(array)})

    def planned(self) -> list[tuple[float, JobArray]]:
        """All arrays, submitted or not, with the time when each was planned."""
        run = self.run()
        further = [(line["at"], _array(line["array"])) for line in _lines(self.further_file)]
        return [*((run.created_at, array) for array in run.arrays), *further]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps out other commands that add trials; given back also by one that is killed."""
        with (self.path / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as wrong:  # as on Lustre without its flock option
                log.warning("%s: %s: do not extend or retry twice at once", self.path, wrong)
            yield

    def append(self, submission: Submission) -> None:
        """Adds one accepted array to the ledger, on disk when this returns."""
        _append(self.ledger, asdict(submission))

    def submissions(self) -> tuple[Submission, ...]:
        """All accepted arrays, oldest first."""
        return tuple(_submission(given) for given in _lines(self.ledger))

    def note_extension(self, extension: Extension) -> None:
        """Keeps what an `extend` is about to do, or has done, on disk when this returns."""
        _append(self.extensions_file, asdict(extension))

    def extension(self) -> Extension | None:
        """The last `extend`, if there was one."""
        lines = _lines(self.extensions_file)
        return Extension(**lines[-1]) if lines else None

    def budget(self, given: Budget) -> Budget:
        """The time and GPU-hours of a sweep's budget as they are now, after every `extend`."""
        last = self.extension()
        if last is None:
            return given
        time = None if last.time_s is None else timedelta(seconds=last.time_s)
        raised = {"time": time, "gpu_hours": last.gpu_hours}
        return given.model_copy(update={k: v for k, v in raised.items() if v is not None})


def _noted(file: Path) -> float:
    return float(file.read_text() or 0) if file.exists() else 0.0


def _append(ledger: Path, entry: Mapping[str, object]) -> None:
    torn = ledger.exists() and not ledger.read_text(encoding="utf-8").endswith("\n")
    with ledger.open("a", encoding="utf-8") as lines:
        lines.write("\n" * torn + json.dumps(entry) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _lines(ledger: Path) -> list[dict[str, Any]]:
    """The entries of a ledger; a line torn by a crash counts as not written."""
    found = []
    for line in ledger.read_text(encoding="utf-8").splitlines() if ledger.exists() else ():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _array(given: Mapping[str, Any]) -> JobArray:
    after = given["after"] or ()  # one name in a plan.json of an earlier release
    after = (after,) if isinstance(after, str) else tuple(after)
    return JobArray(**{**given, "after": after, "exclude": tuple(given.get("exclude", ()))})


def _submission(given: Mapping[str, Any]) -> Submission:
    after = tuple(given.get("after") or ())
    return Submission(**{**given, "backend": BackendName(given["backend"]), "after": after})


def _caps(given: Sequence[Mapping[str, Any]]) -> tuple[Cap, ...]:
    if not given:
        return ()
    from hpoctl.limits import Cap, Measure  # few runs have any

    def cap(of: Mapping[str, Any]) -> Cap:
        names = {key: tuple(of.get(key, ())) for key in ("accounts", "partitions")}
        return Cap(**{**of, "measure": Measure(of["measure"]), **names})

    return tuple(cap(of) for of in given)


def _gist(given: Mapping[str, Any] | None, extension: Extension | None) -> Gist | None:
    if given is None:
        return None
    raised = None if extension is None else extension.gpu_hours
    return Gist(
        metrics=tuple(given["metrics"]),
        shown=tuple(given.get("shown", ())),
        gpu_hours=given["gpu_hours"] if raised is None else raised,
        storage=StorageKeys(**given["storage"]),
    )


def _index(environ: Mapping[str, str]) -> Path:
    """The file that lists every run directory of this user, oldest first."""
    state = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "/tmp")) / ".local/state")
    return Path(state) / "hpoctl" / "runs"


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where this user's list of runs is."""
    return _index(environ).parent


def remember(run_dir: RunDir, environ: Mapping[str, str]) -> None:
    """Lists the run directory, so that its study is found by name from any folder."""
    index = _index(environ)
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with index.open("a", encoding="utf-8") as lines:
            lines.write(f"{run_dir.path}\n")
    except OSError:  # a read-only home only costs the lookup by name from another folder
        log.warning("%s cannot be written", index)


def find(study: str, environ: Mapping[str, str]) -> RunDir:
    """The run directory of a study: its path, its name, or `last`. Raises StudyError."""
    given = Path(study).absolute()
    try:
        (given / "plan.json").stat()
        return RunDir(given)
    except PermissionError:
        raise StudyError(
            f"{given} is not open to you: ask {given.owner()} for 'chmod -R g+rX {given}'"
        ) from None
    except OSError:  # a name, which may be no possible path
        pass
    index = _index(environ)
    listed = index.read_text(encoding="utf-8").splitlines() if index.exists() else []
    here = sorted(_plans(Path.cwd().joinpath("runs").glob("*")))
    paths = [Path(line) for line in listed]
    paths += [path for _, path in here if str(path) not in listed]
    known = [RunDir(path) for _, path in _plans(reversed(paths))]
    for run_dir in known:
        if study == "last" or run_dir.run().study == study:
            return run_dir
    names = ", ".join(dict.fromkeys(run_dir.run().study for run_dir in known[:5]))
    hint = f"known: {names}" if names else "'hpoctl submit SWEEP' starts one"
    raise StudyError(f"no study '{study}' found; {hint}")


def _plans(folders: Iterable[Path]) -> Iterator[tuple[float, Path]]:
    """The runs among these folders that are open to us, each with the time of its plan."""
    for folder in folders:
        with suppress(OSError):
            yield (folder / "plan.json").stat().st_mtime, folder
