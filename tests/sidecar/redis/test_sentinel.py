"""A master that sentinels name: found, lost, replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.redis_relay import Relay
from tests.redis_server import RedisServer, Sentinels, free_port, until
from tests.sidecar.redis.factories import outcome, recovered


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with Sentinels(tmp_path_factory.mktemp("s"), count=3) as running:
        yield running


async def test_finds_the_master_though_one_sentinel_is_gone(sentinels: Sentinels) -> None:
    client = connect(sentinels.url.replace("redis+sentinel://", f"redis+sentinel://127.0.0.1:{free_port()},"))
    assert await recovered(client, "INCR", "a") == 1
    assert client.nodes[0].address == f"127.0.0.1:{sentinels.master()}"
    await client.close()


async def test_a_service_that_no_sentinel_knows_is_named(sentinels: Sentinels) -> None:
    client = connect(sentinels.url.replace("/counters", "/other"))
    error = await outcome(client, "PING")
    assert isinstance(error, StoreError)
    assert "does not know 'other'" in str(error)
    assert error.transient
    await client.close()


async def test_a_redis_that_is_no_sentinel_is_named(redis_server: RedisServer) -> None:
    async with Relay(redis_server.socket) as relay:
        client = connect(f"redis+sentinel://127.0.0.1:{relay.port}/counters")
        error = await outcome(client, "PING")
        assert isinstance(error, StoreError)
        assert "no sentinel names the master (ERR unknown command" in str(error)
        await client.close()


async def test_a_replica_that_is_named_by_mistake_is_not_counted_on(sentinels: Sentinels, tmp_path: Path) -> None:
    """Its sentinel has not heard yet: ROLE tells."""
    _, replica = sentinels.roles()
    reply = f"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n{replica.port}\r\n".encode()

    async def stale(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"headgate\r\n")
        writer.write(b"+OK\r\n")
        await reader.readuntil(b"counters\r\n")
        writer.write(reply)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(stale, "127.0.0.1", 0)
    client = connect(f"redis+sentinel://127.0.0.1:{server.sockets[0].getsockname()[1]}/counters")
    error = await outcome(client, "PING")
    assert isinstance(error, StoreError)
    assert "not the master" in str(error)
    await client.close()
    server.close()


async def test_follows_a_failover_when_the_master_stands_still(tmp_path: Path) -> None:
    with Sentinels(tmp_path) as own:
        client = connect(own.url, timeout=0.5)
        await recovered(client, "SET", "a", "kept")
        first, second = own.roles()
        with second.client() as other:
            until(lambda: other.get("a") == b"kept", "the replica has it")
        first.pause()  # its connections stand still with it
        assert isinstance(await outcome(client, "GET", "a"), StoreError)
        assert await recovered(client, "GET", "a", within=10) == b"kept"
        assert client.nodes[0].address == f"127.0.0.1:{second.port}"
        # The old master comes back, still thinking that it is one: nobody goes there.
        first.resume()
        assert await recovered(client, "INCR", "b") == 1
        with second.client() as other:
            assert other.get("b") == b"1"
        await client.close()


async def test_follows_a_failover_that_somebody_asked_for(sentinels: Sentinels) -> None:
    """The old master still answers, and takes writes, for many seconds. It is left all the same."""
    client = connect(sentinels.url, timeout=0.5)
    await recovered(client, "PING")
    old = client.nodes[0].address
    sentinels.fail_over()
    await asyncio.to_thread(until, lambda: f"127.0.0.1:{sentinels.master()}" != old, "the sentinels agree")
    started = time.monotonic()
    while client.nodes[0].address == old:
        await outcome(client, "INCR", "c")
        await asyncio.sleep(0.001)
        assert time.monotonic() - started < 4
    await recovered(client, "INCR", "c")
    assert client.nodes[0].address == f"127.0.0.1:{sentinels.master()}"
    await client.close()
