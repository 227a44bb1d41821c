"""What `tune` and `prefetch` show: the course text's answer, and what was fetched."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from hpoctl.output import (
    Format,
    shell_word,
    show_best,
    show_ended,
    show_json,
    show_report,
    suggest,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpoctl.objectives.causal_lm.hub import Fetched
    from hpoctl.report import Report
    from hpoctl.status import Status


def show_tuned(ended: Status, report: Report, form: Format, *, lower: bool) -> None:
    """`tune`: the best configuration as the course text prints it, and where the report is."""
    if form is Format.JSON:
        show_ended(ended)
        return
    if (best := ended.summary.best) is not None:
        if form is Format.TABLE:
            print("Best hyperparameter configuration:")
        show_best(best, "json", form)
        if form is Format.TABLE and best.values is not None:
            print(
                f"\nBest value: {best.values[0]:.6g} ({'lower' if lower else 'higher'} is better)\n"
            )
    show_report(report, form)
    suggest(f"trials {shell_word(ended.run.study)}")


def show_fetched(fetched: Sequence[Fetched], form: Format) -> None:
    """`prefetch`: what was fetched, its size and its place."""
    if form is Format.JSON:
        show_json([asdict(one) for one in fetched])
        return
    for one in fetched:
        if form is Format.QUIET:
            print(one.path)
        else:
            print(f"{one.kind} {one.name}: {one.size / 1e6:,.0f} MB in {one.path}")
    if not fetched:
        print("nothing to fetch: all that this sweep names is on this disk")
