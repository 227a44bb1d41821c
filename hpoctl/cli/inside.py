"""Commands that run in an allocation: the worker, and what a program tells it."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

import click

from hpoctl import output
from hpoctl.cli.options import formatted
from hpoctl.errors import ConfigError
from hpoctl.output import Format

EXIT_CODES = {"prune": 5, "checkpoint": 6}  # of `hpoctl tell`, by its answer


@click.command()
@click.argument("values", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--step", type=int, help="Training step: makes it a report, not the result.")
@click.option(
    "--infeasible", metavar="WHY", help="Instead of values: the parameters cannot be used."
)
@formatted
def tell(values: tuple[str, ...], step: int | None, infeasible: str | None, form: str) -> None:
    """Give values of the running trial, from a program started by 'command:'.

    Prints 'go on', 'prune' or 'checkpoint'. Its exit code is 5 when the pruner wants the trial to
    end, 6 when the allocation ends: save, and leave with exit code 75.
    """
    from hpoctl.integrations import tell as tell_worker

    if (infeasible is None) == (not values):
        raise ConfigError("hpoctl tell: give NAME=VALUE, or --infeasible WHY")
    said = {} if infeasible is None else {"infeasible": infeasible}
    numbers = dict(_named_number(value) for value in values)
    answer = tell_worker({**numbers, **said}, step, os.environ)
    output.show_answer(answer, Format(form))
    if answer in EXIT_CODES:
        sys.exit(EXIT_CODES[answer])


def _named_number(given: str) -> tuple[str, float]:
    name, _, text = given.partition("=")
    try:
        return name, float(text)
    except ValueError:
        raise ConfigError(f"{given}: write NAME=NUMBER, such as eval_loss=2.31") from None


@click.command(hidden=True)
@click.argument("run_dir", type=click.Path(path_type=Path))
def worker(run_dir: Path) -> None:
    """Work the queue of a run off; slurm/worker.sh calls it in an allocation."""
    from hpoctl.kin import adopt_orphans
    from hpoctl.rundir import RunDir
    from hpoctl.worker import work

    adopt_orphans()
    _end_with(os.environ.pop("HPOCTL_SUPERVISOR", ""))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    work(RunDir(run_dir.absolute()), os.environ)


def _end_with(supervisor: str) -> None:
    """Ends this process with slurm/worker.sh, so that a killed task leaves no worker behind.

    At once, if that died while this program was loaded: who runs on without an allocation takes
    another one's GPU. A shell of another namespace is one outside of our container: who knows.
    """
    from hpoctl.kin import end_with_parent

    pid, _, namespace = supervisor.partition(" ")
    if pid == str(os.getppid()):  # not a program between them, or a container
        end_with_parent(signal.SIGKILL, int(pid))
    if namespace == _namespace() and not Path("/proc", pid).exists():
        sys.exit(f"hpoctl: worker.sh, process {pid}, is gone: no worker without it")


def _namespace() -> str | None:
    """Where the numbers of processes count; None where the kernel does not say."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
