"""Replicas tell each other, over a real Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from extproc.balance.board import Board
from extproc.balance.notice import Kind, Notice
from extproc.balance.shared import KEY, Shared
from extproc.balance.standing import State
from sidecar.redis import connect
from tests.extproc.balance.boards import until
from tests.extproc.balance.factories import Clock, eject, healthy, limited
from tests.redis_server import RedisCluster, RedisServer, Sentinels

_PATIENT = "socket_timeout=5&socket_connect_timeout=5"


class Replica:
    """A process with a clock of its own, which may be anywhere."""

    def __init__(self, url: str, key: str, now: float, stack: AsyncExitStack) -> None:
        self.clock = Clock(now)
        self.health = healthy(self.clock)
        self.heard: list[Notice] = []
        client = connect(url)
        self.board: Board = Shared(client, self._hear, time.monotonic, origin=uuid4().hex, poll=0.02, key=key)
        self.board.start()
        stack.push_async_callback(self.board.close)

    def _hear(self, notice: Notice) -> None:
        self.heard.append(notice)
        self.health.heard(notice)

    def tell(self) -> None:
        self.board.publish(self.health.news())

    def left(self, cluster: str = "a") -> float:
        return self.health.standing(cluster).seconds_left or 0.0


@pytest.fixture
def key() -> str:
    """A hash that no other test uses."""
    return f"{{{uuid4().hex}}}"


async def two(stack: AsyncExitStack, url: str, key: str) -> tuple[Replica, Replica]:
    return Replica(url, key, 50.0, stack), Replica(url, key, 9_000.0, stack)


@pytest.fixture(scope="module", params=["single", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Redis in each of its shapes."""
    folder = tmp_path_factory.mktemp("r")
    if request.param == "single":
        server: RedisServer = request.getfixturevalue("redis_server")
        yield f"{server.url}?{_PATIENT}"
    elif request.param == "sentinel":
        with Sentinels(folder) as sentinels:
            yield f"{sentinels.url}?{_PATIENT}"
    else:
        with RedisCluster(folder) as cluster:
            yield f"{cluster.url}?{_PATIENT}"


async def test_what_one_learns_the_other_knows(url: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, url, key)
        one.health.failed(limited("a", 30))
        eject(one.health, "b")
        one.tell()
        await until(lambda: len(other.heard) == 2, "the other hears")
        assert 25 < other.left("a") <= 30
        assert 2 < other.left("b") <= 5
        assert other.health.standing("a").why == "rate_limited (429)"
        assert other.health.standing("b").state is State.EJECTED
        assert (one.heard, other.health.news()) == ([], ())


@pytest.fixture
def single(redis_server: RedisServer) -> str:
    return f"{redis_server.url}?{_PATIENT}"


async def test_each_notice_is_handed_on_once(single: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, single, key)
        one.board.publish([Notice(Kind.COOLING, "a", 30, "x")])
        await until(lambda: len(other.heard) == 1, "the other hears")
        for seconds in (35, 20, 40):
            one.board.publish([Notice(Kind.COOLING, "b", seconds, "x")])
            await until(lambda: other.left("b") > 34, "the other hears again")
        await until(lambda: other.left("b") > 36, "the longest")
        assert [notice.subject for notice in other.heard].count("a") == 1
        assert 39 < other.left("b") <= 40


async def test_a_shorter_one_does_not_replace_a_longer(single: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, single, key)
        one.board.publish([Notice(Kind.COOLING, "a", 60, "long")])
        await until(lambda: other.left() > 0, "the other hears")
        other.board.publish([Notice(Kind.COOLING, "a", 5, "short"), Notice(Kind.COOLING, "c", 5, "mark")])
        await until(lambda: bool(one.heard), "the mark arrives")
        late = Replica(single, key, 0.0, stack)  # started later, it learns all
        await until(lambda: len(late.heard) == 2, "the late one hears")
        assert {notice.subject: notice.reason for notice in late.heard} == {"a": "long", "c": "mark"}
        assert [notice.subject for notice in one.heard] == ["c"]


async def test_the_longest_of_what_waits_is_written(single: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, single, key)
        one.board.publish([Notice(Kind.COOLING, "a", seconds, "x") for seconds in (35, 60, 20)])
        await until(lambda: other.left("a") > 0, "the other hears")
        assert 55 < other.left("a") <= 60


async def test_what_one_cannot_reach_others_may(single: str, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, single, key)
        one.board.publish([Notice(Kind.UNREACHABLE, "a.test:443", 20, "dns"), Notice(Kind.COOLING, "b", 20, "mark")])
        await until(lambda: bool(other.heard), "the mark arrives")
        assert [notice.subject for notice in other.heard] == ["b"]


async def test_nothing_is_left_in_redis(single: str, key: str, redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        async with AsyncExitStack() as stack:
            one, other = await two(stack, single, key)
            one.board.publish([Notice(Kind.COOLING, "a", 0.4, "x"), Notice(Kind.COOLING, "b", 60, "x")])
            await until(lambda: len(other.heard) == 2, "the other hears")
            assert 55_000 < redis.pttl(key) <= 60_000
            await until(lambda: redis.hkeys(key) == [b"cooling b"], "what has ended is removed")
            one.board.publish([Notice(Kind.COOLING, "a", 5, "x")])
            await until(lambda: redis.hlen(key) == 2, "it is written")
            assert redis.pttl(key) > 50_000


async def test_what_cannot_be_read_is_ignored_and_removed(single: str, key: str, redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        far = int(time.time() * 1_000) + 60_000
        redis.hset(
            key, mapping={"cooling a": "x", "melting a": f"{far} who x", "cooling b": f"{far} who", "": str(far)}
        )
        redis.expire(key, 60)
        async with AsyncExitStack() as stack:
            one = Replica(single, key, 0.0, stack)
            await until(lambda: bool(one.heard), "the only good one")
            await until(lambda: set(redis.hkeys(key)) == {b"melting a", b"cooling b"}, "the others are removed")
            assert [notice.subject for notice in one.heard] == ["b"]


async def test_redis_goes_and_comes_back(own_redis: RedisServer, key: str) -> None:
    async with AsyncExitStack() as stack:
        one, other = await two(stack, f"{own_redis.url}?{_PATIENT}", key)
        one.board.publish([Notice(Kind.COOLING, "a", 60, "x")])
        await until(lambda: other.left("a") > 0, "the other hears")
        with capture_logs() as logs:
            own_redis.kill()
            one.board.publish([Notice(Kind.COOLING, "b", 60, "x")])
            await until(lambda: [line["event"] for line in logs].count("shared_health_failed") == 2, "both say so")
            own_redis.start()
            await until(lambda: other.left("b") > 0, "the other hears what waited")
        failures = [line for line in logs if line["event"] == "shared_health_failed"]
        assert len(failures) == 2  # once each
        assert other.left("a") > 0  # nothing was shortened


async def test_a_redis_that_never_was_delays_nobody(tmp_path: Path, key: str) -> None:
    async with AsyncExitStack() as stack:
        replica = Replica(f"unix://{tmp_path}/none.sock", key, 0.0, stack)
        with capture_logs() as logs:
            for number in range(3_000):
                replica.board.publish([Notice(Kind.COOLING, str(number), 60, "x" * 1_000)])
            await until(lambda: bool(logs), "it says so")


def test_the_key_has_a_hash_tag() -> None:
    assert KEY.startswith("{")
    assert "}" in KEY
