"""Decisions that are made in several places (slots, stores), each by itself: what one reserved another may deny.

Weakness: where one place denies what another has already reserved, a second step gives that back. In between the
reservation is visible, so another request may be denied that need not be; none is let through too much. An error in
between leaves the reservation until its window ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import TypeAlias

from ratelimit.storage.base import Action, Count, Operation

Share: TypeAlias = Mapping[int, Operation]  # the operations of one place, by their number in the decision


def shares(operations: Share, place: Callable[[Operation], Hashable]) -> list[Share]:
    """The operations of each place, in the order in which the decision names the places."""
    found: dict[Hashable, dict[int, Operation]] = {}
    for index, operation in operations.items():
        found.setdefault(place(operation), {})[index] = operation
    return list(found.values())


async def decide(
    operations: Sequence[Operation],
    now: float,
    place: Callable[[Operation], Hashable],
    run: Callable[[Sequence[Share]], Awaitable[Mapping[int, Count]]],
) -> Sequence[Count]:
    """One decision of many places. `run` applies the shares of all places at once, and waits for all of them."""
    parts = shares(dict(enumerate(operations)), place)
    counts = dict(await run(parts))
    back = _to_give_back(parts, counts, int(now))
    if back:
        given = await run(shares(back, place))
        # A counter may have been reserved from more than once: what is left at the end is true of each.
        left = {operation.key: given[index] for index, operation in back.items()}
        counts.update((index, left[operation.key]) for index, operation in back.items())
    return [counts[index] for index in range(len(counts))]


def _to_give_back(parts: Sequence[Share], counts: Mapping[int, Count], now: int) -> Share:
    """What undoes the reserves and stops of the places that denied nothing, when another place did."""
    denied = [
        any(counts[index].over and one.action is not Action.WATCH for index, one in part.items()) for part in parts
    ]
    if len(parts) == 1 or not any(denied):
        return {}
    return {
        index: operation._replace(action=Action.ADJUST, hits=-operation.hits, at=now)
        for part, over in zip(parts, denied, strict=True)
        if not over
        for index, operation in part.items()
        if operation.action in (Action.RESERVE, Action.STOP)
    }
