"""In which order a request tries the targets of its model."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, cycle, groupby, islice

from extproc.balance.choice import Choice, Hints
from extproc.balance.health import Health
from extproc.balance.standing import Rank, Use
from extproc.balance.strategies import Strategy, by_affinity, by_cost, by_latency, by_load, drawn

_MOST_ORDERS = 120  # that are kept ready: every order of five targets
_RANKED = {
    Strategy.LEAST_REQUESTS: by_load,
    Strategy.LATENCY: by_latency,
    Strategy.COST: by_cost,
    Strategy.AFFINITY: by_affinity,
}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What follows from the targets' ranks alone, so it is the same for all requests until one changes.

    `groups` are tried one after another; the strategy decides only within a group. One of `trials` may go first.
    `orders` are all that a weighted draw can give, up to where each ends in the summed chances; empty when too many.
    """

    ranks: tuple[Rank, ...]
    groups: tuple[tuple[int, ...], ...]
    trials: tuple[int, ...]
    ends: tuple[float, ...]
    orders: tuple[tuple[int, ...], ...]


class Pool:
    """The targets of one model, never changed. It only remembers how they last stood with one `Health`.

    First come the available targets of the lowest priority, then those of the next, then whatever is out, the soonest
    back first. A target on trial stands behind the available ones of its priority, and where there are none, behind
    those of the next priority that has some; when `Health` grants it a try, it is the first of all. Nothing is ever
    left out but a target of weight 0.

    `name` tells apart pools that take turns over the same targets.
    """

    __slots__ = (
        "_active",
        "_attempts",
        "_distinct",
        "_health",
        "_key",
        "_plan",
        "_strategy",
        "_version",
        "_weights",
        "choices",
    )

    def __init__(
        self,
        choices: Sequence[Choice],
        strategy: Strategy = Strategy.WEIGHTED,
        attempts: int = 1,
        name: str = "",
    ) -> None:
        """Raises `ValueError` when no choice has a weight."""
        self.choices = tuple(choices)
        self._active = tuple(index for index, choice in enumerate(self.choices) if choice.weight > 0)
        if not self._active:
            raise ValueError("no target has a weight above 0")
        self._strategy = strategy
        self._attempts = attempts
        self._distinct = min(attempts, len(self._active))
        self._weights = tuple(choice.weight for choice in self.choices)
        self._key = (name, *(self.choices[index].cluster for index in self._active))
        self._health: Health | None = None
        self._version = 0
        self._plan = _Plan((), (), (), (), ())

    def order(self, health: Health, hints: Hints) -> tuple[int, ...]:
        """Indexes into `choices`, as many as there are attempts. None stands twice before every other stood once."""
        version = health.version
        if version != self._version or health is not self._health:
            self._look(health)
            self._version, self._health = version, health
        plan = self._plan
        if plan.orders and (self._strategy is Strategy.WEIGHTED or not self._is_ranked(hints)):
            order = plan.orders[bisect_right(plan.ends, hints.draw)]
        else:
            order = self._compose(plan, health, hints)
        if plan.trials:
            for index in plan.trials:
                if health.grants(self.choices[index].cluster):
                    return self._with_first(index, order)
        return order

    def _is_ranked(self, hints: Hints) -> bool:
        return self._strategy is not Strategy.AFFINITY or bool(hints.affinity)

    def _compose(self, plan: _Plan, health: Health, hints: Hints) -> tuple[int, ...]:
        order: list[int] = []
        draw, weights = hints.draw, self._weights
        ranked = _RANKED.get(self._strategy) if self._is_ranked(hints) else None
        for group in plan.groups:
            if len(group) == 1:
                order += group
            elif ranked is not None:
                order += ranked(group, self.choices, weights, health, hints)
            elif self._strategy is Strategy.ROUND_ROBIN and not order:
                order += health.turns(self._key).take(group, weights)
            else:
                same, draw = drawn(group, weights, draw)
                order += same
            if len(order) >= self._distinct:
                break
        return self._repeated(order)

    def _with_first(self, first: int, order: Sequence[int]) -> tuple[int, ...]:
        return self._repeated((first, *(index for index in order[: self._distinct] if index != first)))

    def _repeated(self, order: Sequence[int]) -> tuple[int, ...]:
        distinct = order[: self._distinct]
        if self._attempts == len(distinct):
            return tuple(distinct)
        return tuple(islice(cycle(distinct), self._attempts))

    def _look(self, health: Health) -> None:
        """See how the targets stand, and plan anew when that has changed."""
        ranks = tuple(health.rank(self.choices[index]) for index in self._active)
        if ranks == self._plan.ranks:
            return
        groups, trials = self._groups(dict(zip(self._active, ranks, strict=True)))
        ends, orders = self._orders(groups)
        self._plan = _Plan(ranks, groups, trials, ends, orders)

    def _groups(self, ranks: dict[int, Rank]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
        """The groups, and those on trial that may go first."""
        groups: list[tuple[int, ...]] = []
        waiting: list[tuple[int, ...]] = []  # on trial, behind the next that are available
        trials: tuple[int, ...] = ()
        for _, same in groupby(sorted(ranks, key=self._priority), key=self._priority):
            members = tuple(same)
            available = tuple(index for index in members if ranks[index].use is Use.AVAILABLE)
            waiting.append(tuple(index for index in members if ranks[index].use is Use.TRIAL))
            if available:
                if not groups:
                    trials = tuple(index for group in waiting for index in group)
                groups += (available, *waiting)
                waiting = []
        groups += waiting

        def comes_back(index: int) -> tuple[float, int]:
            return ranks[index].back, self._priority(index)

        out = sorted((index for index, rank in ranks.items() if rank.use is Use.OUT), key=comes_back)
        groups += (tuple(same) for _, same in groupby(out, key=comes_back))
        return tuple(group for group in groups if group), trials

    def _priority(self, index: int) -> int:
        return self.choices[index].priority

    def _orders(self, groups: Sequence[tuple[int, ...]]) -> tuple[tuple[float, ...], tuple[tuple[int, ...], ...]]:
        """Every order that weighted draws can give, and where each ends in the summed chances."""
        if self._strategy not in (Strategy.WEIGHTED, Strategy.AFFINITY):
            return (), ()
        count, left, picks = 1, self._distinct, []
        for group in groups:
            picks.append(min(len(group), left))
            left -= picks[-1]
            count *= math.perm(len(group), picks[-1])
        if count > _MOST_ORDERS:
            return (), ()
        found: list[tuple[tuple[int, ...], float]] = [((), 1.0)]
        for group, number in zip(groups, picks, strict=True):
            for _ in range(number):
                found = [longer for order, chance in found for longer in self._longer(order, chance, group)]
        ends = tuple(accumulate(chance for _, chance in found[:-1]))  # the last takes what rounding leaves
        return ends, tuple(self._repeated(order) for order, _ in found)

    def _longer(
        self, order: tuple[int, ...], chance: float, group: tuple[int, ...]
    ) -> list[tuple[tuple[int, ...], float]]:
        left = [index for index in group if index not in order]
        total = sum(self._weights[index] for index in left)
        return [((*order, index), chance * self._weights[index] / total) for index in left]
