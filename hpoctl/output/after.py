"""What `confirm`, `train` and `fit` have to say, and the next command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from hpoctl.comparison import LEVEL, Confirmed, Interval
from hpoctl.output import (
    Format,
    report_shape,
    say,
    shapes,
    shell_word,
    show_json,
    show_report,
    suggest,
)
from hpoctl.output.tables import array_lines
from hpoctl.space import nest
from hpoctl.words import many

if TYPE_CHECKING:
    from hpoctl.control import Confirmation, Fitted, Planned, Submitted, Trained
    from hpoctl.control.corners import Tried
    from hpoctl.report import Report


def show_rehearsal(text: str, planned: Planned, form: Format, again: str) -> None:
    """`--dry-run`: the sweep file that would be submitted, and what would run."""
    if form is Format.JSON:
        plan = shapes.plan_shape(planned.plan)
        show_json(
            {
                "study": planned.sweep.study,
                "run_dir": str(planned.run_dir.path),
                "sweep": text,
                **plan,
                "notes": planned.notes,
            }
        )
        return
    print(text, end="")
    for line in array_lines(planned.plan):
        say(line)
    for note in planned.notes:
        say(f"note: {note}")
    suggest(again)


def show_confirmation(done: Confirmation, form: Format) -> None:
    """`confirm`: the winners by their means, or how far they are."""
    if form is Format.JSON:
        show_json(confirmation_shape(done))
        return
    winners = done.comparison.winners
    if form is Format.QUIET:
        print("\n".join(str(winner.trial) for winner in winners))
        return
    _say_submitted(done.submitted)
    if any(winner.again for winner in winners):
        for line in _columns(_confirmed_rows(done)):
            print(line)
    if done.failed:
        say(f"note: {done.failed} of the repetitions failed, see 'hpoctl failures {done.name}'")
    if done.unfinished:
        say(f"{done.unfinished} of {len(winners) * done.seeds} repetitions have not ended")
        suggest(f"status {shell_word(done.name)} --watch")
        return
    print(_verdict(done))
    suggest(f"train {shell_word(done.study)} --trial {winners[0].trial}")


def show_confirmed_report(report: Report, done: Confirmation, form: Format) -> None:
    """`report` of a confirmation: its files, and what it says."""
    if form is Format.JSON:
        show_json({**report_shape(report), "confirmation": confirmation_shape(done)})
        return
    show_report(report, form)
    show_confirmation(done, form)


def confirmation_shape(done: Confirmation) -> dict[str, object]:
    """A confirmation for programs."""
    return {
        "study": done.study,
        "confirmation": done.name,
        "run_dir": str(done.run_dir),
        "metric": done.metric,
        "seeds": done.seeds,
        "drawn": done.drawn,
        "interval": {"kind": "student-t", "level": LEVEL},
        "unfinished": done.unfinished,
        "failed": done.failed,
        "order_holds": done.comparison.order_holds,
        "winners": [
            {
                "trial": winner.trial,
                "searched": winner.searched,
                "values": [*winner.values.values()],
                "again": _interval_shape(winner.again),
                "behind": _interval_shape(winner.behind),
            }
            for winner in done.comparison.winners
        ],
        "arrays": _arrays(done.submitted),
    }


def _interval_shape(interval: Interval | None) -> dict[str, object] | None:
    return None if interval is None else asdict(interval)


def _confirmed_rows(done: Confirmation) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("trial", f"{done.metric} in the search", "again: mean", "95 % interval (t)", "n", "behind")
    ]
    for winner in done.comparison.winners:
        again = winner.again
        rows.append(
            (
                str(winner.trial),
                f"{winner.searched:.6g}",
                "" if again is None else f"{again.mean:.6g}",
                _ends(again),
                str(0 if again is None else again.n),
                _behind(winner),
            )
        )
    return rows


def _ends(interval: Interval | None) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:.6g} to {interval.high:.6g}"


def _behind(winner: Confirmed) -> str:
    behind = winner.behind
    if behind is None:
        return ""
    return f"{behind.mean:.3g}" + (f" ({_ends(behind)})" if behind.low is not None else "")


def _verdict(done: Confirmation) -> str:
    """What the numbers say, in a line."""
    holds, winners = done.comparison.order_holds, done.comparison.winners
    if holds is None:
        return "some winners have no value, so the order cannot be told"
    order = "the order of the search holds" if holds else "the order of the search does not hold"
    if len(winners) < 2:
        return f"trial {winners[0].trial} was run again with {done.seeds} seeds"
    close = [str(w.trial) for w in winners[1:] if w.behind is None or not w.behind.tells_apart]
    if not close:
        return f"{order}: trial {winners[0].trial} is ahead of all others"
    return (
        f"{order}: trial {winners[0].trial} is ahead, but cannot be told apart from"
        f" {', '.join(close)} by {done.seeds} seeds"
    )


def show_trained(done: Trained, form: Format) -> None:
    """`train`: where the model is and how good, or how far it is."""
    if form is Format.JSON:
        show_json(
            {
                "study": done.study,
                "training": done.name,
                "run_dir": str(done.run_dir),
                "trials": done.trials,
                "unfinished": done.unfinished,
                "folder": None if done.folder is None else str(done.folder),
                "searched": done.searched,
                "final": done.final,
                "members": [asdict(member) for member in done.members],
                "arrays": _arrays(done.submitted),
            }
        )
        return
    if form is Format.QUIET:
        print(done.folder or done.name)
        return
    _say_submitted(done.submitted)
    if done.folder is None:
        say(f"'{done.name}' has {many(done.unfinished, 'trial')} to go")
        suggest(f"status {shell_word(done.name)} --watch")
        return
    rows: list[Sequence[str]] = [("metric", f"search, trial {done.trials[0]}", "final")]
    rows += [
        (name, _number(done.searched.get(name)), _number(done.final.get(name)))
        for name in dict.fromkeys([*done.searched, *done.final])
    ]
    for line in _columns(rows):
        print(line)
    print(done.folder)
    say(f"its card: {done.folder / 'README.md'}")


def show_fitted(done: Fitted, form: Format, again: str) -> None:
    """`fit`: what each corner took, and the largest batch."""
    if form is Format.JSON:
        show_json(
            {
                "study": done.study,
                "run_dirs": [str(path) for path in done.run_dirs],
                "limit_gb": done.limit_gb,
                "unfinished": done.unfinished,
                "corners": [_tried_shape(tried) for tried in done.corners],
                "batches": [_tried_shape(tried) for tried in done.batches],
                "batch_parameter": done.batch_parameter,
                "largest_batch": done.largest_batch,
                "notes": done.notes,
                "arrays": _arrays(done.submitted),
            }
        )
        return
    if form is Format.QUIET:
        print(done.largest_batch or "")
        return
    _say_submitted(done.submitted)
    for note in done.notes:
        say(f"note: {note}")
    rows: list[Sequence[str]] = [("point", "peak GB", "s a step", "")]
    rows += [_tried_row(tried) for tried in (*done.corners, *done.batches)]
    for line in _columns(rows):
        print(line)
    if done.unfinished:
        suggest(again)
        return
    _say_batch(done)
    suggest(again.replace("fit ", "check ", 1).partition(" --")[0])


def _say_batch(done: Fitted) -> None:
    limit = "the GPU's memory" if done.limit_gb is None else f"{done.limit_gb:g} GB"
    full = [tried.name for tried in done.corners if tried.out_of_memory]
    if full:
        print(f"{len(full)} of {len(done.corners)} corners do not fit into {limit}")
    if done.largest_batch is not None:
        print(f"largest batch at the largest corner: {done.largest_batch} ({done.batch_parameter})")
    elif done.batches:
        print(f"no batch fits into {limit} at the largest corner")


def _tried_row(tried: Tried) -> Sequence[str]:
    took = "" if tried.step_s is None else f"{tried.step_s:.3g}"
    memory = "" if tried.memory_gb is None else f"{tried.memory_gb:.2f}"
    said = "out of memory" if tried.out_of_memory else str(tried.state)
    if tried.memory_gb is not None:
        said = ""
    elif tried.why:
        said = f"{said}: {tried.why[:100]}"
    return (tried.name, memory, took, said)


def _tried_shape(tried: Tried) -> dict[str, object]:
    return {**asdict(tried), "params": nest(tried.params)}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _arrays(submitted: Submitted | None) -> object:
    shape: Mapping[str, object] = shapes.submitted_shape(submitted) if submitted else {}
    return shape.get("arrays", [])


def _say_submitted(submitted: Submitted | None) -> None:
    for submission in submitted.submissions if submitted else ():
        say(f"submitted {submission.array}: {submission.id} ({many(submission.tasks, 'task')})")
    for note in submitted.notes if submitted else ():
        say(f"note: {note}")
