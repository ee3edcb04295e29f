"""What an answer has cost its model, at the configured price of the target that gave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from extproc.cache.usage import Usage

_TOKENS = 1_000_000  # a price is for so many


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost (`targets[].cost`), in the operator's currency."""

    input: float
    output: float

    def of(self, usage: Usage) -> float:
        """What an answer with this usage costs. Tokens that its provider did not tell of cost nothing, and those that
        it had in a cache of its own cost as much as others."""
        return ((usage.prompt or 0) * self.input + (usage.completion or 0) * self.output) / _TOKENS


def cost_of(usage: Usage, prices: Mapping[str, Price], cluster: str) -> float | None:
    """What an answer has cost that the target `cluster` gave, by the prices of its model's targets.

    None where no price is known: nothing is claimed. When it is not known who answered, it was the cheapest one.
    """
    if cluster:
        price = prices.get(cluster)
        return price.of(usage) if price is not None else None
    costs = [price.of(usage) for price in prices.values()]
    return min(costs, default=None)
