"""What hpoctl made a sweep of, where it made it: the key `origin`."""

from __future__ import annotations

from hpoctl.values import NotNegative, Values
from hpoctl.words import OriginKind


class Origin(Values):
    """Another study, and trials of it, best first; `values` are what the search had for them.

    With several metrics `by` says which one decides, and `values` are of that one.

    `output` is where the result goes, `commit` what git had checked out where trials run.
    """

    kind: OriginKind
    study: str
    run_dir: str | None = None
    trials: tuple[NotNegative, ...] = ()
    values: tuple[float, ...] = ()
    by: str | None = None
    output: str | None = None
    commit: str | None = None
