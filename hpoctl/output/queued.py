"""What `extend` and `retry` have queued, and the next command."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from hpoctl.output import Format, say, shapes, shell_word, show_json, show_submitted, suggest
from hpoctl.output.tables import duration
from hpoctl.words import many

if TYPE_CHECKING:
    from hpoctl.control import Extended, Retried, Submitted


def show_extended(extended: Extended, form: Format) -> None:
    """`extend`: the budget as it is now, and the numbers of the new trials."""
    study, queued, budget = extended.study, extended.queued, extended.budget
    if form is Format.JSON:
        parts = {"trials": budget.trials, "gpu_hours": budget.gpu_hours, "time_s": budget.time_s}
        shown = {"budget": parts, "queued": queued, "notes": extended.notes}
        show_json({"study": study, "run_dir": str(extended.run_dir), **shown, **_arrays(extended)})
        return
    if form is Format.QUIET:
        print("\n".join(map(str, queued)), end="\n" * bool(queued))
        return
    if extended.resumed:
        say("note: this finishes an 'extend' that was cut short; give it again for still more")
    for line in _raised(extended):
        print(line)
    if queued:
        print(f"queued {many(len(queued), 'trial')}; the budget of '{study}' is {budget.trials}")
    elif extended.asked.trials:
        say(f"nothing to do: the budget of '{study}' is {many(budget.trials, 'trial')} already")
    for note in extended.notes:
        say(f"note: {note}")
    raised = extended.asked.time or extended.asked.gpu_hours
    _go_on(extended, extended.waiting if raised else len(queued))


def _raised(extended: Extended) -> Iterator[str]:
    study, asked, budget = extended.study, extended.asked, extended.budget
    if asked.time and budget.time_s is not None:
        length = duration(timedelta(seconds=budget.time_s))
        yield f"the budget of time of '{study}' is {length} from its submission"
    if asked.gpu_hours and budget.gpu_hours is not None:
        yield f"the budget of GPU-hours of '{study}' is {budget.gpu_hours:.6g}"


def show_retried(retried: Retried, form: Format) -> None:
    """`retry`: which new trial repeats which, and why others were left."""
    study, repeats, left = retried.study, retried.repeats, retried.left
    if form is Format.JSON:
        queued = [{"number": new, "repeats": old} for new, old in repeats.items()]
        reasons = [{"number": number, "reason": reason} for number, reason in left.items()]
        shown = {"queued": queued, "left": reasons, **_arrays(retried)}
        show_json({"study": study, "run_dir": str(retried.run_dir), **shown})
        return
    if form is Format.QUIET:
        print("\n".join(map(str, repeats)), end="\n" * bool(repeats))
        return
    for new, old in repeats.items():
        print(f"queued trial {new}, which repeats trial {old}")
    for number, reason in left.items():
        say(f"note: trial {number} is left as it is: {reason}")
    if not repeats:
        say(f"nothing to do: no failed trial of '{study}' is left to repeat")
    _go_on(retried, len(repeats))


def _arrays(done: Extended | Retried) -> dict[str, object]:
    """The arrays that were attached, if any."""
    return {"arrays": shapes.submitted_shape(done.attached)["arrays"] if done.attached else []}


def _go_on(done: Extended | Retried, queued: int) -> None:
    attached: Submitted | None = done.attached
    if attached is not None and (attached.submissions or attached.notes):
        show_submitted(attached, Format.TABLE, "attached")
    elif queued:
        suggest(f"workers add {shell_word(done.study)} -n {min(done.workers, queued)}")
    else:
        suggest(f"status {shell_word(done.study)}")
