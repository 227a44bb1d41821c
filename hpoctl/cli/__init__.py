"""The command line: parses, calls `control`, hands the result to `output`."""

from __future__ import annotations

import os
import sys

import click

from hpoctl import output
from hpoctl.cli.after import confirm, fit, train
from hpoctl.cli.db import db
from hpoctl.cli.inside import tell, worker
from hpoctl.cli.queue import extend, retry
from hpoctl.cli.site import doctor, why
from hpoctl.cli.studies import best, cancel, failures, logs, report, status, trials
from hpoctl.cli.sweeps import check, init, plan, prefetch, run, submit
from hpoctl.cli.tune import tune
from hpoctl.cli.workers import workers
from hpoctl.errors import ConfigError, HpoctlError


def main() -> None:
    """Runs a command; ends with its exit code: 0, 2 configuration, 3 batch system, 4 study."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as nothing_asked:
        nothing_asked.show()
        sys.exit(ConfigError.exit_code)
    except click.UsageError as wrong:
        command = wrong.ctx.command_path if wrong.ctx else "hpoctl"
        output.complain(f"{wrong.format_message().rstrip('.')}; see '{command} --help'")
        sys.exit(ConfigError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # head closed the pipe
        sys.exit(0)
    except HpoctlError as wrong:
        if _debugging():
            raise
        output.complain(str(wrong))
        sys.exit(wrong.exit_code)
    except OSError as wrong:
        if _debugging():
            raise
        where = f"{wrong.filename}: " if wrong.filename else ""
        output.complain(f"{where}{wrong.strerror or wrong}")
        sys.exit(HpoctlError.exit_code)
    except Exception as wrong:
        if _debugging():
            raise
        output.complain(f"{type(wrong).__name__}: {wrong}; add --debug to see where")
        sys.exit(HpoctlError.exit_code)


def _debugging() -> bool:
    return "--debug" in sys.argv or bool(os.environ.get("HPOCTL_DEBUG"))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hpoctl")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
def cli() -> None:
    """Tune language models on Slurm, with workers that share one study.

    Start with 'hpoctl init', then 'hpoctl check', 'hpoctl submit' and 'hpoctl status'.
    STUDY is a study's name, its run directory, or 'last'.
    """


for command in (init, check, plan, prefetch, submit, run, workers, status, trials, logs):
    cli.add_command(command)
for command in (best, report, failures, retry, extend, cancel, confirm, train, fit):
    cli.add_command(command)
for command in (db, doctor, tell, tune, why, worker):
    cli.add_command(command)
