"""The stores of the stand-alone service: opened from their URLs, each Redis behind a breaker."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ratelimit.storage import RedisStore, Store, open_store
from ratelimit.storage.breaker import Breaker
from ratelimit.storage.split import SplitStore


@dataclass(frozen=True, slots=True)
class Stores:
    """Where counters live, as URLs. Without `per_second`, windows of a second live with the others.

    With `watched` the service is healthy only while the store answers, not only once it has.
    """

    url: str = field(repr=False)
    per_second: str = field(default="", repr=False)
    watched: bool = False


class OpenStores:
    """The stores while they are open. `store` is what decisions are made with; close that.

    Raises `ConfigError` for a URL or a certificate that cannot be used. Nothing is sent yet.
    """

    def __init__(self, stores: Stores) -> None:
        self._redis: list[RedisStore] = []
        self._breakers: list[Breaker] = []
        main = self._open(stores.url)
        self.store: Store = SplitStore(main, self._open(stores.per_second)) if stores.per_second else main

    def _open(self, url: str) -> Store:
        store = open_store(url)
        if not isinstance(store, RedisStore):
            return store
        self._redis.append(store)
        self._breakers.append(Breaker(store, time.monotonic))
        return self._breakers[-1]

    @property
    def state(self) -> dict[str, int]:
        """How the stores are at this moment, for operators."""
        return {"opened": len(self._redis), "connected": self.connections, "left_alone": self.left_alone}

    @property
    def connections(self) -> int:
        """How many Redis servers are connected."""
        return sum(node.connected for store in self._redis for node in store.nodes)

    @property
    def left_alone(self) -> int:
        """How many stores are not asked for the moment, because they failed again and again."""
        return sum(breaker.state != "closed" for breaker in self._breakers)
