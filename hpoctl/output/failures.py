"""The failures of a study, for people and for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hpoctl.failures import OF_THE_CLUSTER, FailureGroup
from hpoctl.output import Format, say, shell_word, show_json, suggest
from hpoctl.record import Stop

if TYPE_CHECKING:
    from hpoctl.control import Failures

_NUMBERS_SHOWN = 12


def show_failures(found: Failures, form: Format) -> None:
    """`failures`: a block a class and last line; what the study concluded; the next command."""
    if form is Format.JSON:
        show_json(failures_shape(found.groups, found.stop, found.bad_nodes))
        return
    if form is Format.QUIET:
        print("\n".join(str(n) for n in sorted({n for g in found.groups for n in g.trials})))
        return
    if not found.groups:
        say(f"no trial of '{found.study}' has failed")
        return
    orders = orders_text(found.stop, found.bad_nodes)
    print("\n\n".join(text for text in (failures_text(found.groups), orders) if text))
    study = shell_word(found.study)
    if found.bad_nodes:
        nodes = " ".join(found.bad_nodes)
        say(f"once a node is mended: hpoctl workers trust {study} {nodes}")
    again = f"   (once it is mended: retry {study})"
    if all(group.cause in OF_THE_CLUSTER for group in found.groups):
        again = ""  # nothing is to be mended in the sweep
    suggest(f"logs {study} {found.groups[0].first.number}{again}")


def failures_text(groups: Sequence[FailureGroup]) -> str:
    """A block a group: how often, the last line, the trials, the nodes, the first traceback."""
    return "\n\n".join(_block(group) for group in groups)


def _block(group: FailureGroup) -> str:
    nodes = ", ".join(f"{node} ({count})" for node, count in group.nodes.items())
    times = "once" if group.count == 1 else f"{group.count} times"
    lines = [f"{group.cause}, {times}: {group.said}"]
    lines.append(f"  trials  {_numbers(group.trials)}")
    lines.append(f"  nodes   {nodes}")
    if "\n" in group.first.error.strip():
        lines.append(f"  first   trial {group.first.number}:")
        lines += [f"    {line}" for line in group.first.error.strip().splitlines()]
    return "\n".join(lines)


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:_NUMBERS_SHOWN]))
    more = len(numbers) - _NUMBERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def orders_text(stop: Stop | None, bad_nodes: Mapping[str, str]) -> str:
    """What the study has concluded: that it stopped itself, and which nodes it avoids."""
    lines = [f"stopped itself: {stop.why}"] if stop is not None else []
    lines += [f"avoids {node}: {why}" for node, why in bad_nodes.items()]
    return "\n".join(lines)


def failures_shape(
    groups: Sequence[FailureGroup], stop: Stop | None, bad_nodes: Mapping[str, str]
) -> dict[str, object]:
    """`failures --json`."""
    return {
        "failures": [
            {
                "cause": group.cause,
                "last_line": group.said,
                "count": group.count,
                "trials": group.trials,
                "nodes": dict(group.nodes),
                "first": {
                    "trial": group.first.number,
                    "attempt": group.first.attempt,
                    "node": group.first.node,
                    "ended_at": group.first.ended_at,
                    "error": group.first.error,
                },
            }
            for group in groups
        ],
        "stopped": stop and {"at": stop.at, "why": stop.why},
        "bad_nodes": dict(bad_nodes),
    }
