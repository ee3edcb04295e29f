"""Vectors in a real Redis 8, and what an older one says."""

from __future__ import annotations

import asyncio
import math
import secrets
import struct
from collections.abc import AsyncIterator

import pytest

from extproc.semantic.index import NoVectorSets, RedisIndex
from sidecar.errors import StoreError
from sidecar.redis import connect
from tests.extproc.semantic.house import pack
from tests.redis_server import RedisServer

KEYS = [bytes([number]) * 32 for number in range(20)]


@pytest.fixture
async def index(vector_server: RedisServer) -> AsyncIterator[RedisIndex]:
    made = RedisIndex(connect(vector_server.url, timeout=5), f"test:{secrets.token_hex(4)}")
    yield made
    await made.close()


async def test_the_nearest_first_with_their_cosines(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    for number, vector in enumerate([pack(1, 0), pack(3, 4), pack(0, 2), pack(-1, 0)]):
        await index.add(place, vector, KEYS[number], 1000, 60, 100)
    found = await index.search(place, pack(5, 0), 1000)
    assert [near.key for near in found] == KEYS[:4]
    assert [near.similarity for near in found] == pytest.approx([1.0, 0.6, 0.0, -1.0], abs=1e-6)


async def test_a_cosine_is_as_exact_as_its_vectors(index: RedisIndex) -> None:
    place, size = secrets.token_bytes(32), 384
    one = [math.sin(number) for number in range(size)]
    other = [math.sin(number) + 0.1 * math.cos(number * 7) for number in range(size)]
    await index.add(place, struct.pack(f"<{size}f", *one), KEYS[0], 1000, 60, 100)
    (near,) = await index.search(place, struct.pack(f"<{size}f", *other), 1000)
    wanted = sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
    assert near.similarity == pytest.approx(wanted, abs=1e-6)


async def test_places_are_apart(index: RedisIndex) -> None:
    one, other = secrets.token_bytes(32), secrets.token_bytes(32)
    await index.add(one, pack(1, 0), KEYS[0], 1000, 60, 100)
    assert await index.search(other, pack(1, 0), 1000) == []
    await index.add(other, pack(1, 0, 0), KEYS[0], 1000, 60, 100)  # another place may have other dimensions


async def test_a_vector_ends(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    await index.add(place, pack(1, 0), KEYS[0], 1000, 60, 100)
    await index.add(place, pack(1, 0.1), KEYS[1], 1000, 600, 100)
    assert [near.key for near in await index.search(place, pack(1, 0), 1059)] == KEYS[:2]
    assert [near.key for near in await index.search(place, pack(1, 0), 1060)] == KEYS[1:2]


async def test_a_newer_vector_takes_the_place_of_the_same_key(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    await index.add(place, pack(1, 0), KEYS[0], 1000, 60, 100)
    await index.add(place, pack(1, 0), KEYS[0], 1050, 60, 100)
    assert [near.key for near in await index.search(place, pack(1, 0), 1100)] == KEYS[:1]


async def test_removed(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    await index.add(place, pack(1, 0), KEYS[0], 1000, 60, 100)
    await index.remove(place, KEYS[0])
    await index.remove(place, KEYS[0])
    assert await index.search(place, pack(1, 0), 1000) == []


async def test_a_set_is_bounded_and_ends(index: RedisIndex, vector_server: RedisServer) -> None:
    place = secrets.token_bytes(32)
    for key in KEYS:
        await index.add(place, pack(1, key[0]), key, 1000, 60, 5)
    with vector_server.client() as client:
        name = index._name(place)
        assert client.execute_command("VCARD", name) <= 5
        assert 50_000 < client.pttl(name) <= 60_000
        await index.add(place, pack(1, 0), KEYS[0], 1000, 10, 5)
        assert client.pttl(name) > 50_000  # never shorter
    found = await index.search(place, pack(1, 0), 1000)
    assert KEYS[0] in {near.key for near in found}  # what was just learned is not what goes


async def test_what_has_ended_is_taken_out(index: RedisIndex, vector_server: RedisServer) -> None:
    place = secrets.token_bytes(32)
    for key in KEYS[:4]:
        await index.add(place, pack(1, key[0]), key, 1000, 60, 100)
    await index.add(place, pack(1, 9), KEYS[9], 2000, 60, 100)
    with vector_server.client() as client:
        assert client.execute_command("VCARD", index._name(place)) == 1


async def test_other_dimensions_are_an_error(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    await index.add(place, pack(1, 0), KEYS[0], 1000, 60, 100)
    with pytest.raises(StoreError, match="dimension"):
        await index.search(place, pack(1, 0, 0), 1000)
    with pytest.raises(StoreError, match="dimension"):
        await index.add(place, pack(1, 0, 0), KEYS[1], 1000, 60, 100)


async def test_the_server_can_do_it(index: RedisIndex) -> None:
    await index.check()


async def test_an_older_server_cannot(redis_server: RedisServer) -> None:
    index = RedisIndex(connect(redis_server.url))
    with pytest.raises(NoVectorSets, match="unknown command"):
        await index.check()
    with pytest.raises(StoreError, match="unknown command"):
        await index.search(bytes(32), pack(1, 0), 1000)
    await index.close()


async def test_one_that_may_not_be_asked(vector_server: RedisServer) -> None:
    user = f"u{secrets.token_hex(4)}"
    with vector_server.client() as client:
        client.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "+@all", "-vsim")
    index = RedisIndex(connect(vector_server.url.replace("unix://", f"unix://{user}:pw@")))
    with pytest.raises(NoVectorSets, match=r"NOPERM|permission"):
        await index.check()
    await index.close()


async def test_a_server_that_is_away(own_redis: RedisServer) -> None:
    own_redis.kill()
    index = RedisIndex(connect(own_redis.url))
    with pytest.raises(StoreError) as raised:
        await index.check()
    assert not isinstance(raised.value, NoVectorSets)
    await index.close()


async def test_many_at_once(index: RedisIndex) -> None:
    place = secrets.token_bytes(32)
    await asyncio.gather(*(index.add(place, pack(1, key[0]), key, 1000, 60, 100) for key in KEYS))
    found = await asyncio.gather(*(index.search(place, pack(1, key[0]), 1000) for key in KEYS))
    assert [near[0].key for near in found] == KEYS
