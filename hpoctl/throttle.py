"""One throttle over all arrays of a run: what an array that comes later may have of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An array that runs, waits or is still to be submitted, and how many of its tasks run at once.

    It starts when all that `after` names have ended.
    """

    name: str
    at_once: int
    after: tuple[str, ...]


def share(places: Sequence[Place], max_running: int) -> tuple[int, tuple[str, ...]]:
    """How many tasks one more array may run at once, and the array it has to wait for, if any.

    It gets what nobody has of the throttle, for good; where others have all of it, it takes the
    place of one that nobody follows yet, when that has ended. `places` stand in the order in which
    they were planned.
    """
    free = max_running - _most_at_once(places)
    if free > 0:
        return free, ()
    followed = {name for place in places for name in place.after}
    heir = min(
        (place for place in places if place.name not in followed),
        key=lambda place: (-place.at_once, place.name),
    )
    return min(heir.at_once, max_running), (heir.name,)


def _most_at_once(places: Sequence[Place]) -> int:
    """A bound on how many tasks run at a time.

    Of arrays that follow each other one runs. So, wherever the places are put into such chains, no
    more run than the widest of each chain together.
    """
    chains: list[list[Place]] = []
    for place in places:
        before = next((chain for chain in chains if chain[-1].name in place.after), None)
        if before is None:
            chains.append([place])
        else:
            before.append(place)
    return sum(max(place.at_once for place in chain) for chain in chains)
