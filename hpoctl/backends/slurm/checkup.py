"""Looks a cluster over as an ordinary user: what `hpoctl doctor` says of Slurm."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from hpoctl.backends.slurm import kept, site
from hpoctl.backends.slurm.ask import ask
from hpoctl.errors import BatchSystemError
from hpoctl.finding import Finding, fails, ok, warning
from hpoctl.fit import allowance, span
from hpoctl.limits import Demand, Limits, Measure, caps
from hpoctl.script import exec_words, image_file

if TYPE_CHECKING:
    from hpoctl.sweep import Sweep

_NEEDED = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
_BETTER = {"sacctmgr": "limits are not known", "sacct": "the GPU-hours of killed jobs are guessed"}
_JOB_S = 45.0  # so that all is said within a minute
_POLL_S = 1.0


def look_over() -> Iterator[Finding]:
    """Commands, the controller, accounting, this user's accounts, partitions, limits."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        way = "run this on the login node, or use backend: local"
        yield fails("commands", f"no {', '.join(missing)} on this machine", way)
        return
    yield ok("commands", ", ".join(_NEEDED))
    for name, loss in _BETTER.items():
        if shutil.which(name) is None:
            yield warning(name, f"is not on this machine: {loss}", "nothing has to be done")
    asked_at = time.monotonic()
    try:
        ask(["scontrol", "show", "config"], timeout_s=site.TIMEOUT_S)
    except BatchSystemError as wrong:
        yield fails("controller", str(wrong), "ask your administrators, or try again later")
        return
    took_ms = (time.monotonic() - asked_at) * 1000
    limits = kept.read(time.time())
    yield ok("controller", f"Slurm {limits.version} answers in {took_ms:.0f} ms")
    yield from _accounts(limits)
    yield from _partitions(limits)
    yield from _sizes(limits)


def _accounts(limits: Limits) -> Iterator[Finding]:
    if not limits.accounts and not limits.qos:
        loss = "limits of accounts are not known, the GPU-hours of killed jobs are guessed"
        yield warning("accounting", f"sacctmgr tells nothing: {loss}", "nothing has to be done")
        return
    yield ok("accounting", f"{len(limits.accounts)} accounts, {len(limits.qos)} QOS")
    own = sorted({row.account for row in limits.associations})
    if not own and "associations" in limits.enforced:
        yield fails("account", "you have none on this cluster", "ask your administrators for one")
    elif limits.default_account is None and len(own) > 1:
        yield warning("account", f"none is the default: {', '.join(own)}", "give resources.account")
    elif own:
        yield ok("account", f"{limits.default_account or own[0]} of {', '.join(own)}")


def _partitions(limits: Limits) -> Iterator[Finding]:
    for partition in limits.partitions:
        nodes = [node for node in limits.nodes if node.partition == partition.name]
        gpus = sorted({f"{n} {kind or 'GPU'}" for node in nodes for kind, n in node.gpus.items()})
        count = sum(node.count for node in nodes)
        longest = span(partition.max_minutes) if partition.max_minutes else "any time"
        text = f"{count} nodes, {' or '.join(gpus) or 'no GPUs'} each, up to {longest}"
        if partition.up:
            yield ok(f"partition {partition.name}", text)
        else:
            way = "use another partition"
            yield warning(f"partition {partition.name}", f"{text}; it is down", way)
    if limits.nodes and not any(node.gpus for node in limits.nodes):
        yield warning("GPUs", "no node of this cluster has one", "ask for none: gpus: 0")


def _sizes(limits: Limits) -> Iterator[Finding]:
    if limits.tasks_per_array is not None:
        yield ok("MaxArraySize", f"{limits.tasks_per_array}: larger arrays are split")
    for cap in caps(limits, _anything(limits), None):
        if cap.measure is Measure.SUBMITTED and cap.value == 1:
            way = "use mode: sequential, or 'hpoctl submit' again after each job"
            yield warning(cap.name, allowance(cap), way)
        elif cap.measure is Measure.GRANT and not cap.value:
            yield warning(cap.name, allowance(cap), "ask for more, or use another account or qos")
        elif cap.shared:
            yield ok(cap.name, allowance(cap))


def _anything(limits: Limits) -> Demand:
    """A worker of this user's defaults."""
    return Demand(
        partitions=(),
        account=limits.default_account,
        qos=None,
        cpus=1,
        mem_mb=None,
        gpus=0,
        gpu_type=None,
        time=timedelta(minutes=1),
    )


def look_at(sweep: Sweep) -> Iterator[Finding]:
    """What a sweep needs besides Slurm: the program and the image of its container."""
    container = sweep.resources.container
    if container is None:
        return
    program = shutil.which("apptainer") or shutil.which("singularity")
    if program:
        yield ok("container", program)
    else:
        way = "add --job to look on a compute node; resources.setup may have to load its module"
        yield warning("container", "neither apptainer nor singularity is on this machine", way)
    image = image_file(container, Path.cwd())
    if image is not None and not image.exists():
        yield fails("image", f"{image} is not there", "build it, or mend resources.container")
    elif image is not None:
        yield ok("image", str(image))


def try_a_job(folder: Path, sweep: Sweep | None = None, database: str = "") -> Iterator[Finding]:
    """Runs a job that looks at this folder and this Python, or a sweep's, from a compute node.

    `database` are arguments of Python, quoted, with which it says why it does not reach one.
    """
    try:
        place = Path(tempfile.mkdtemp(prefix=".hpoctl-doctor-", dir=folder))
    except OSError as wrong:
        text = f"{folder} cannot be written, so no job was tried: {wrong.strerror}"
        yield fails("job", text, "work in a folder of your own")
        return
    script, said = place / "job.sh", place / "said"
    try:
        script.write_text(_job(place, said, sweep, database))
        yield from _outcome(script, said, sweep)
        if database and said.exists():
            yield from _database(said)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _job(place: Path, said: Path, sweep: Sweep | None, database: str) -> str:
    """A batch script that says line by line what there is, in the sweep's environment."""
    header = ["--job-name=hpoctl-doctor", "--time=2", f"--output={place}/log"]
    setup: Sequence[str] = ()
    python = quote(_python(sweep))
    if sweep is not None:
        own = sweep.resources
        named = {"partition": own.partition, "account": own.account, "qos": own.qos}
        header += [f"--{flag}={value}" for flag, value in named.items() if value is not None]
        setup = own.setup
        if own.container is not None:
            words = exec_words(own.container, Path.cwd(), [place])
            python = f'"$program" exec {shlex.join(words)} {python}'
    why, no_database = quote(str(_why(said))), quote(str(_why_no_database(said)))
    lines = (
        f"exec 3>>{quote(str(said))}",
        *setup,
        "program=$(command -v apptainer || command -v singularity) && echo container >&3",
        f"{python} -m hpoctl --help >{why} 2>&1 && echo python >&3",
        f"{python} {database} >{no_database} 2>&1 && echo database >&3" * bool(database),
        "squeue --me >/dev/null && echo slurm >&3",
        "echo end >&3",
    )
    return "\n".join(["#!/bin/bash", *(f"#SBATCH {option}" for option in header), *lines, ""])


def _why(said: Path) -> Path:
    """Where the job leaves what Python said of hpoctl."""
    return said.with_name("python")


def _why_no_database(said: Path) -> Path:
    """Where the job leaves why it does not reach the database."""
    return said.with_name("database")


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _database(said: Path) -> Iterator[Finding]:
    words = said.read_text().split()
    if "database" in words:
        yield ok("database there", "a compute node reaches the database")
    elif "python" in words:
        text = f"a compute node does not reach the database: {_last_line(_why_no_database(said))}"
        yield fails("database there", text, "use a host and port that all nodes reach")


def _python(sweep: Sweep | None) -> str:
    if sweep is None:
        return sys.executable
    inside = "python3" if sweep.resources.container else sys.executable
    return sweep.resources.python or inside


def _outcome(script: Path, said: Path, sweep: Sweep | None) -> Iterator[Finding]:
    try:
        id_ = ask(["sbatch", "--parsable", str(script)]).strip().split(";")[0]
    except BatchSystemError as wrong:
        yield fails("job", str(wrong), "export SBATCH_ACCOUNT or SBATCH_PARTITION")
        return
    deadline = time.monotonic() + _JOB_S
    while time.monotonic() < deadline and not (said.exists() and "end" in said.read_text()):
        time.sleep(_POLL_S)
    words = said.read_text().split() if said.exists() else []
    if not words:
        state = ask(["squeue", "--noheader", f"--jobs={id_}", "--format=%T %r"]).strip()
        ask(["scancel", id_])
        if state.startswith("PENDING"):
            yield warning("job", f"did not start in {_JOB_S:.0f} s ({state})", "try again later")
        else:
            way = "submit from a folder that all nodes share, such as your project's"
            yield fails("job", f"a compute node did not write to {script.parent.parent}", way)
        return
    yield ok("shared folder", f"a compute node writes to {script.parent.parent}")
    boxed = sweep is not None and sweep.resources.container is not None
    if boxed and "container" in words:
        yield ok("container there", "compute nodes have apptainer, or singularity")
    elif boxed:
        way = "give resources.setup the line that brings it, such as 'module load apptainer'"
        yield fails("container there", "a compute node has neither apptainer nor singularity", way)
    python = _python(sweep) + " in the container" * boxed
    if "python" in words:
        yield ok("python", f"a compute node runs {python} with hpoctl")
    else:
        way = "give resources.setup the lines that make it run, or resources.python another one"
        way = "install hpoctl in the image, or name its Python: resources.python" if boxed else way
        text = f"a compute node cannot run hpoctl by {python}: {_last_line(_why(said))}"
        yield fails("python", text, way)
    if "slurm" in words:
        yield ok("squeue there", "compute nodes reach Slurm")
    else:
        way = "workers cannot feed in further jobs or look after each other by Slurm's word"
        yield warning("squeue there", "compute nodes do not reach Slurm", way)
