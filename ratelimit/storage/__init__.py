"""Stores for counters. The embedded one answers at once, Redis in one round trip."""

from __future__ import annotations

from ratelimit.storage.base import Count, Operation, Store
from ratelimit.storage.breaker import Breaker
from ratelimit.storage.memory import MemoryStore
from ratelimit.storage.redis import RedisStore
from ratelimit.storage.split import SplitStore
from sidecar.errors import ConfigError, Problem
from sidecar.redis import SCHEMES, connect, parse

__all__ = [
    "Breaker",
    "Count",
    "MemoryStore",
    "Operation",
    "RedisStore",
    "SplitStore",
    "Store",
    "check_url",
    "open_store",
]

MEMORY = "memory://"


def check_url(url: str) -> None:
    """Raise `ValueError` (`what is wrong | what to write`) unless `url` is `memory://` or a Redis URL.

    The text never holds more of the URL than its scheme, because a URL may hold a password.
    """
    if url == MEMORY:
        return
    if not url.startswith(SCHEMES):
        scheme, separator, _ = url.partition("://")
        what = f"'{scheme}' is no store" if separator else "the store's URL has no scheme"
        raise ValueError(f"{what} | use one of {', '.join((MEMORY, *SCHEMES))}")
    parse(url)


def open_store(url: str) -> Store:
    """The store for `url`: `memory://` or a Redis URL. Nothing is sent yet.

    Raises `ConfigError` for another scheme, a URL that cannot be parsed or certificates that cannot be used.
    """
    try:
        check_url(url)
    except ValueError as error:
        message, _, mend = str(error).partition(" | ")
        raise ConfigError([Problem("store", "", message, mend)]) from None
    return MemoryStore() if url == MEMORY else RedisStore(connect(url))
