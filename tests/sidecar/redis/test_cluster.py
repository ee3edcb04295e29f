"""A real cluster of three masters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from sidecar.errors import StoreError
from sidecar.redis import connect
from sidecar.redis.cluster import Cluster
from sidecar.redis.slots import key_slot
from tests.redis_server import RedisCluster
from tests.sidecar.redis.factories import ask, outcome, recovered


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("c")) as running:
        yield running


def keys_by_node(cluster: RedisCluster, space: str) -> list[str]:
    """One key for each node."""
    found: dict[int, str] = {}
    for number in range(1000):
        key = f"{space}-{number}"
        found.setdefault(cluster.owner(key_slot(key)), key)
        if len(found) == len(cluster.nodes):
            break
    return [found[node] for node in sorted(found)]


async def mapped(client: Cluster) -> None:
    """Until the map of slots is read."""
    while len(client.nodes) < 3 or not all(node.connected for node in client.nodes):
        for node in range(3):
            await outcome(client, "GET", "x", key=f"warm-{node}")
            for number in range(64):
                await outcome(client, "GET", f"w{number}", key=f"w{number}")


@pytest.fixture
def seed(cluster: RedisCluster) -> str:
    return f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}"


async def test_requests_before_the_map_is_known_find_their_node(cluster: RedisCluster, seed: str) -> None:
    client = connect(seed, timeout=1)
    keys = keys_by_node(cluster, "early")
    replies = await asyncio.gather(*(ask(client, "INCR", key, key=key) for key in keys))
    assert replies == [1, 1, 1]
    await client.close()


async def test_one_connection_per_master_and_no_more_redirections(cluster: RedisCluster, seed: str) -> None:
    client = connect(seed, timeout=1)
    assert isinstance(client, Cluster)
    await mapped(client)
    assert sorted(node.address for node in client.nodes) == sorted(f"127.0.0.1:{node.port}" for node in cluster.nodes)
    keys = [f"many-{number}" for number in range(300)]
    before = redirections(cluster)
    assert await asyncio.gather(*(ask(client, "INCR", key, key=key) for key in keys)) == [1] * 300
    assert redirections(cluster) == before
    while connections(cluster) != [1, 1, 1]:  # the one that the map was asked over first is let go
        await asyncio.sleep(0.01)
    await client.ping()
    await client.close()


def connections(cluster: RedisCluster) -> list[int]:
    """How many each node has of ours."""
    with cluster.clients() as clients:
        return [sum(one["name"] == "headgate" for one in client.client_list()) for client in clients]


def redirections(cluster: RedisCluster) -> int:
    total = 0
    with cluster.clients() as clients:
        for client in clients:
            total += client.info("errorstats").get("errorstat_MOVED", {"count": 0})["count"]
    return total


async def test_a_slot_that_moves_is_followed_and_remembered(cluster: RedisCluster, seed: str) -> None:
    client = connect(seed, timeout=1)
    assert isinstance(client, Cluster)
    await mapped(client)
    key = keys_by_node(cluster, "moving")[0]
    cluster.move(key_slot(key), 1)
    before = redirections(cluster)
    replies = await asyncio.gather(*(ask(client, "INCR", key, key=key) for _ in range(10)))
    assert sorted(replies) == list(range(1, 11))
    assert await ask(client, "INCR", key, key=key) == 11
    assert 1 <= redirections(cluster) - before <= 10
    after = redirections(cluster)
    assert await ask(client, "INCR", key, key=key) == 12
    assert redirections(cluster) == after
    with cluster.nodes[1].client() as other:
        assert other.get(key) == b"12"
        other.delete(key)
    cluster.move(key_slot(key), 0)
    await client.close()


async def test_a_slot_that_is_moving_is_asked_for_where_it_goes(cluster: RedisCluster, seed: str) -> None:
    client = connect(seed, timeout=1)
    assert isinstance(client, Cluster)
    await mapped(client)
    key = keys_by_node(cluster, "asking")[0]
    slot, names = key_slot(key), cluster.names()
    with cluster.clients() as nodes:
        nodes[1].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])  # type: ignore[no-untyped-call]
        nodes[0].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])  # type: ignore[no-untyped-call]
        assert await asyncio.gather(*(ask(client, "INCR", key, key=key) for _ in range(5))) == [1, 2, 3, 4, 5]
        for node in nodes[:2]:
            node.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")  # type: ignore[no-untyped-call]
    await client.close()


async def test_a_second_redirection_is_a_transient_error(cluster: RedisCluster, seed: str) -> None:
    """Node 0 says that 1 has the slot, and 1 says that 0 has it."""
    client = connect(seed, timeout=1)
    assert isinstance(client, Cluster)
    await mapped(client)
    key = keys_by_node(cluster, "looping")[0]
    slot, names = key_slot(key), cluster.names()
    with cluster.clients() as nodes:
        nodes[0].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[1])  # type: ignore[no-untyped-call]
        error = await outcome(client, "INCR", key, key=key)
        assert isinstance(error, StoreError)
        assert "MOVED" in str(error)
        assert error.transient
        nodes[0].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[0])  # type: ignore[no-untyped-call]
    await recovered(client, "INCR", key, key=key)
    await client.close()


async def test_a_node_that_is_gone_fails_its_own_keys_at_once_and_no_others(cluster: RedisCluster, seed: str) -> None:
    client = connect(seed, timeout=1)
    assert isinstance(client, Cluster)
    await mapped(client)
    keys = keys_by_node(cluster, "gone")
    cluster.nodes[2].pause()
    errors = await asyncio.gather(*(outcome(client, "INCR", keys[2], key=keys[2]) for _ in range(50)))
    assert all(isinstance(error, StoreError) and error.transient for error in errors)
    assert [await ask(client, "INCR", key, key=key) for key in keys[:2]] == [1, 1]
    with pytest.raises(StoreError):
        await client.ping()
    cluster.nodes[2].resume()
    await recovered(client, "GET", keys[2], key=keys[2], within=3)
    await client.close()


async def test_no_node_of_the_url_is_there() -> None:
    client = connect("redis+cluster://127.0.0.1:1,127.0.0.1:2")
    error = await outcome(client, "PING", key="a")
    assert isinstance(error, StoreError)
    assert error.transient
    await client.close()
