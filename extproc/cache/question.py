"""A request as the cache sees it: what is asked, for whom, and what may be done about it."""

from __future__ import annotations

from dataclasses import dataclass

from extproc.cache.key import CacheKey
from extproc.cache.rules import CacheRules


@dataclass(frozen=True, slots=True)
class Question:
    """What is looked up under `key`. `read` says whether it is at all, `max_age` (seconds) how old an answer may be."""

    key: CacheKey
    operation: str
    rules: CacheRules
    read: bool
    max_age: int | None
    only_if_cached: bool
