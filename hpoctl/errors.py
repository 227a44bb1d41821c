"""The exceptions of hpoctl and the exit codes that they end a command with.

HpoctlError            1   anything that hpoctl foresaw; caught once, in cli.main
├── ConfigError        2   the sweep file, a flag or an argument
├── BatchSystemError   3   Slurm or the local backend refused or did not answer
└── StudyError         4   the study or the storage under it
    └── Unreachable    4   the storage does not answer, or not yet

A message is one line that says where, what, and the way out.
"""


class HpoctlError(Exception):
    """Something went wrong that hpoctl can name; ends the command with `exit_code`."""

    exit_code = 1


class ConfigError(HpoctlError):
    """The sweep file, a flag or an argument cannot be used as it stands."""

    exit_code = 2


class BatchSystemError(HpoctlError):
    """The batch system refused a request or could not be asked."""

    exit_code = 3


class StudyError(HpoctlError):
    """The study or its storage is missing, unreachable or not as expected."""

    exit_code = 4


class Unreachable(StudyError):
    """The study's storage did not answer in time; the same request may succeed later."""
