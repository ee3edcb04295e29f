"""The Redis user that the documentation describes may do all that the cache does."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from extproc.cache.flight import Leader
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store import ByTag, Everything, Locks
from extproc.cache.store.names import Names
from tests.extproc.cache_store.factories import PATIENT, key, redis_store
from tests.redis_server import RedisCluster, RedisServer, Sentinels, free_port

_DOCS = Path(__file__).parents[3] / "docs" / "cache.md"


def commands() -> list[str]:
    """What the documentation names: all of it, and for the shape of Redis at hand."""
    text = " ".join(_DOCS.read_text().split())
    found = re.search(r"An ACL user needs `([^`]+)` and `~headgate:cache:\*`", text)
    assert found is not None
    more = re.findall(r"`(\+[a-z|+ ]+)` (?:behind Sentinel|in a cluster)", text)
    assert len(more) == 2
    return [*found.group(1).split(), *" ".join(more).split(), "+client|setname"]


@pytest.mark.parametrize("shape", ["single", "sentinel", "cluster"])
async def test_it_is_enough(shape: str, tmp_path: Path) -> None:
    made: Any = RedisServer(tmp_path, port=free_port()) if shape == "single" else None
    with made or {"sentinel": Sentinels, "cluster": RedisCluster}[shape](tmp_path) as running:
        servers = getattr(running, "servers", None) or getattr(running, "nodes", None) or [running]
        for server in servers:
            with server.client() as admin:
                admin.execute_command("ACL", "SETUSER", "cache", "on", ">secret", "~headgate:cache:*", *commands())
        url = running.tcp_url if isinstance(running, RedisServer) else running.url
        url = url.replace("://", "://cache:secret@", 1)
        store = redis_store(f"{url}{'&' if '?' in url else '?'}{PATIENT}", Names())
        flights = SharedFlights(store, Locks(store._client, Names(), seconds=1), time.monotonic)
        leader = await flights.join(key("a")).wait(10)
        assert isinstance(leader, Leader)
        assert await store.put(key("a"), b"v", 60, ["t"], leader.token)
        leader.land(b"v")
        assert await store.get(key("a")) == b"v"
        assert await store.purge(ByTag("t")) == 1
        assert await store.put(key("b"), b"v", 60, ["t"])
        failing = await flights.join(key("c")).wait(10)
        assert isinstance(failing, Leader)
        failing.fail()
        assert await store.purge(Everything()) == 1
        await store.ping()
        await store.close()
        refused = 0
        for server in servers:
            with server.client() as admin:
                refused += len(admin.execute_command("ACL", "LOG"))
        assert refused == 0
