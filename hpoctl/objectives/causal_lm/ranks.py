"""A trial on several processes of one node: one rank each, joined by torch.distributed.

The trial's own process trains nothing. It forks the ranks, so each has at once what the worker has
prepared; hears them (`telling`); and ends all of them as soon as one is lost.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

from hpoctl import oom
from hpoctl.failures import TrialFailed, classify
from hpoctl.integrations import Line, ProgramTrial
from hpoctl.kin import end_with_parent
from hpoctl.objectives.causal_lm.values import whole
from hpoctl.objectives.telling import Told, bound, serving
from hpoctl.trial import Checkpointed, Infeasible, Pruned, Trial
from hpoctl.words import Cause

Body = Callable[[Trial], Mapping[str, float]]
_fork = multiprocessing.get_context("fork")
_GRACE_S = 5.0  # for the other ranks to end when one has failed: its reason may come second
_SAID = 20_000  # bytes of a traceback, and of an exception: a pipe holds 65,536
_WORDS = 1000  # characters of what an exception says that does not get through


def count(args: Mapping[str, object], environ: Mapping[str, str] = os.environ) -> int:
    """How many processes a trial takes: as `processes` says, else one for each GPU."""
    if "processes" in args:
        return whole("processes", args["processes"])
    return max(1, len([gpu for gpu in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]))


def world_of(trial: Trial) -> int:
    """How many ranks train with the one that sees this trial."""
    return trial.world if isinstance(trial, ProgramTrial) else 1


def spread(trial: Trial, processes: int, body: Body) -> dict[str, float]:
    """What `body` returns on rank 0 of so many processes; reports are those of rank 0.

    Raises what a rank raised. No process is left.
    """
    told, kills = Told(trial, trial.metrics), oom.kills()
    with bound(told) as server, tempfile.TemporaryDirectory(prefix="hpoctl-") as folder:
        ranks = [
            _Rank.begun(trial, number, processes, body, str(server.server_address), Path(folder))
            for number in range(processes)
        ]
        try:
            with serving(server, told):
                _await(ranks, told)
        finally:
            for rank in ranks:
                rank.process.kill()
                rank.process.join()
    if isinstance(told.end, Infeasible):
        raise told.end
    failed = [rank for rank in ranks if rank.process.exitcode]
    if failed:
        raise min((rank.failure(kills) for rank in failed), key=_is_a_consequence)
    if told.end is not None:
        raise told.end
    return told.outcome()


def _await(ranks: list[_Rank], told: Told) -> None:
    """Until all have ended, or one has left the others and these had time to say why."""
    while running := [rank.process.sentinel for rank in ranks if rank.process.exitcode is None]:
        left = any(rank.process.exitcode for rank in ranks) or isinstance(told.end, Infeasible)
        if not wait(running, timeout=_GRACE_S if left else None):
            return


def _is_a_consequence(failure: Exception) -> tuple[bool, bool]:
    """What one rank says of the loss of another comes behind that loss."""
    said, known = str(failure).lower(), classify(failure) is not Cause.ERROR
    words = ("connection", "gloo", "nccl")
    return not (known or isinstance(failure, TrialFailed)), any(word in said for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rank:
    """One process, and what it says when it fails."""

    number: int
    process: ForkProcess
    words: Connection

    @classmethod
    def begun(
        cls, trial: Trial, number: int, world: int, body: Body, address: str, folder: Path
    ) -> _Rank:
        ours, theirs = _fork.Pipe(duplex=False)
        view = ProgramTrial(
            number=trial.number,
            params=trial.params,
            args=trial.args,
            metrics=trial.metrics,
            seed=trial.seed,
            dir=trial.dir,
            cpus=max(1, trial.cpus // world),
            attempt=trial.attempt,
            rank=number,
            world=world,
            line=Line(address=address),
            note=folder / "unused",
            parent_dir=trial.parent_dir,
            hands_on=trial.hands_on,
        )
        process = _fork.Process(
            target=_live, args=(view, body, folder / "meet", theirs, os.getpid())
        )
        process.start()
        theirs.close()
        return cls(number=number, process=process, words=ours)

    def failure(self, kills: int | None) -> Exception:
        """Why it ended, with its number."""
        with suppress(EOFError, OSError):
            if self.words.poll():
                said = self.words.recv()
                assert isinstance(said, Exception)
                return said
        code = self.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        full, hint = oom.said_of_a_kill(kills) if code == -signal.SIGKILL else (False, "")
        cause = Cause.HOST_OOM if full else Cause.ERROR
        return TrialFailed(f"rank {self.number} was ended by {name}{hint}", cause)


def _live(trial: ProgramTrial, body: Body, meet: Path, words: Connection, parent: int) -> None:
    """The whole life of a rank."""
    end_with_parent(signal.SIGKILL, parent)
    try:
        _join(trial, meet)
        try:
            trial.finish(body(trial))
        except (Pruned, Checkpointed) as reason:
            trial.end(reason)
        except Infeasible as reason:
            trial.end(reason)
            return  # without a farewell: the others may be in the middle of their training
    except Exception as raised:
        words.send(_portable(raised, f"On rank {trial.rank}:\n{traceback.format_exc()}"))
        raise SystemExit(1) from raised
    _part()


def _portable(raised: Exception, note: str) -> Exception:
    """As it is, where it gets through a pipe at once and is the same after it; else what it says.

    A rank that blocks there has not ended, so nobody would read it.
    """
    short = note.encode()[-_SAID:].decode(errors="ignore")
    with suppress(Exception):  # whatever an exception of anybody's does when it is packed
        packed = pickle.dumps(raised)
        if len(packed) <= _SAID and classify(pickle.loads(packed)) is classify(raised):
            raised.add_note(short)
            return raised
    said = TrialFailed(f"{type(raised).__name__}: {raised}"[:_WORDS], classify(raised))
    said.add_note(short)
    return said


def _join(trial: ProgramTrial, meet: Path) -> None:
    import torch

    os.environ |= {
        "RANK": str(trial.rank),
        "LOCAL_RANK": str(trial.rank),
        "WORLD_SIZE": str(trial.world),
        "LOCAL_WORLD_SIZE": str(trial.world),
        "OMP_NUM_THREADS": str(trial.cpus),
        "MASTER_ADDR": "127.0.0.1",
    }
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(trial.rank)
    else:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # not by the name of the host
    # A file, not a port: no other trial on the node can have it.
    torch.distributed.init_process_group(
        backend, init_method=f"file://{meet}", rank=trial.rank, world_size=trial.world
    )


def _part() -> None:
    import torch

    torch.distributed.destroy_process_group()
