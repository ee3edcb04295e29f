"""A request as the cache sees it: what is asked, for whom, and what may be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from extproc.cache.key import CacheKey
from extproc.cache.price import Price
from extproc.cache.rules import CacheRules


@dataclass(slots=True)  # not frozen: one is made per request, and freezing would triple what that costs
class Question:
    """What is looked up under `key`. `read` says whether it is at all, `max_age` (seconds) how old an answer may be.
    `prices` are those of the targets that may answer, by their clusters; one without a price is not in it."""

    key: CacheKey
    operation: str
    rules: CacheRules
    read: bool
    max_age: int | None
    only_if_cached: bool
    prices: Mapping[str, Price] = field(default_factory=dict, compare=False)
