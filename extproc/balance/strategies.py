"""How targets that are equally usable are put in order: one function for each strategy.

A group is a tuple of indexes into the pool's choices. One uniform number is enough for any number of draws: within
the part of the weights that it has picked, it is uniform again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from enum import StrEnum

from extproc.balance.choice import Choice, Hints
from extproc.balance.health import Health

_NEAR = 1.1  # times the fastest is as good as the fastest: else all would run to one, until it is the slowest
_EXPLORE = 0.05  # the share of requests that look whether a slow one is still slow
_BELOW_ONE = math.nextafter(1.0, 0.0)


class Strategy(StrEnum):
    """Which of the available targets of one priority goes first."""

    WEIGHTED = "weighted"  # by chance, in proportion to the weights
    ROUND_ROBIN = "round_robin"  # in turn, in proportion to the weights
    LEAST_REQUESTS = "least_requests"  # the one with the fewest requests in flight for its weight
    LATENCY = "latency"  # the one whose first byte comes soonest
    COST = "cost"  # the one that this request costs least at
    AFFINITY = "affinity"  # always the same one for the same affinity


def drawn(group: Sequence[int], weights: Sequence[int], draw: float) -> tuple[list[int], float]:
    """`group` in a weighted draw without replacement, and what is left of `draw`."""
    left, order = list(group), []
    while len(left) > 1:
        point = draw * sum(weights[index] for index in left)
        for index in left:
            if point < weights[index]:
                break
            point -= weights[index]
        else:  # rounding
            index, point = left[-1], 0.0
        draw = min(point / weights[index], _BELOW_ONE)
        left.remove(index)
        order.append(index)
    return order + left, draw


def by_load(
    group: Sequence[int], choices: Sequence[Choice], weights: Sequence[int], health: Health, hints: Hints
) -> list[int]:
    """The least loaded first."""
    loads = {index: health.in_flight(choices[index].cluster) / weights[index] for index in group}
    return _sorted(group, weights, loads.__getitem__, hints.draw)


def by_latency(
    group: Sequence[int], choices: Sequence[Choice], weights: Sequence[int], health: Health, hints: Hints
) -> list[int]:
    """The fastest first. One that was never measured stands among the fastest: were it alone in front, then every
    request would go there until its first answer is complete."""
    if hints.draw < _EXPLORE:
        return drawn(group, weights, hints.draw / _EXPLORE)[0]
    times = {index: health.first_byte(choices[index].cluster) for index in group}
    near = _NEAR * min((time for time in times.values() if time is not None), default=0.0)
    classes = {index: 0.0 if time is None or time <= near else time for index, time in times.items()}
    return _sorted(group, weights, classes.__getitem__, (hints.draw - _EXPLORE) / (1.0 - _EXPLORE))


def by_cost(
    group: Sequence[int], choices: Sequence[Choice], weights: Sequence[int], _health: Health, hints: Hints
) -> list[int]:
    """The cheapest for this request first."""
    costs = {
        index: hints.prompt_tokens * choices[index].input_cost + hints.completion_tokens * choices[index].output_cost
        for index in group
    }
    return _sorted(group, weights, costs.__getitem__, hints.draw)


def by_affinity(
    group: Sequence[int], choices: Sequence[Choice], weights: Sequence[int], _health: Health, hints: Hints
) -> list[int]:
    """Weighted rendezvous hashing: when a target goes or comes, only its own requests move.

    https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/Jason_Resch_New_Consistent_Hashings_Rev.pdf
    """
    scores = {}
    for index in group:
        one = choices[index]
        # What the target is, not the cluster's name: that may change with any setting, and caches would be lost.
        name = "\0".join((one.provider, one.endpoint, one.account, one.model)).encode()
        digest = hashlib.blake2b(hints.affinity + b"\0" + name, digest_size=8).digest()
        chance = (int.from_bytes(digest, "big") + 0.5) / 2.0**64
        scores[index] = -math.log(min(chance, _BELOW_ONE)) / weights[index]
    return sorted(group, key=scores.__getitem__)


def _sorted(group: Sequence[int], weights: Sequence[int], score: Callable[[int], float], draw: float) -> list[int]:
    """By score; those with the same in a weighted draw."""
    by_score: dict[float, list[int]] = {}
    for index in group:
        by_score.setdefault(score(index), []).append(index)
    order = []
    for value in sorted(by_score):
        same = by_score[value]
        if len(same) > 1:
            same, draw = drawn(same, weights, draw)
        order += same
    return order
