"""Equal requests at the same time, several gateways and workers, and a store that fails."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.e2e.caching import Caching, caching, new_text, question, said
from tests.gateway import Answer, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


@pytest.fixture(scope="module", params=["native", "grpcio"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def memory(provider: ProviderThread, engine: str) -> Iterator[Caching]:
    with caching(provider, cache={"wait": 3}, limits={"enforce": "in_process"}, engine=engine) as found:
        yield found


@pytest.fixture(scope="module")
def pair(provider: ProviderThread, redis_server: RedisServer, engine: str) -> Iterator[list[Caching]]:
    """Two gateways, the second with two workers, and one encrypted store."""
    store = f"{redis_server.url}?db=14"
    more = {"cache": {"store": store, "encryption_keys": [KEY], "wait": 20}, "engine": engine}
    with ExitStack() as stack:
        made = [caching(provider, **more), caching(provider, **more, store=store, workers=2)]
        yield [stack.enter_context(one) for one in made]


@pytest.fixture(params=["memory", "redis"])
def caches(request: pytest.FixtureRequest, engine: str) -> list[Caching]:
    """One gateway, or two that share a store."""
    if request.param == "memory":
        return [request.getfixturevalue("memory")]
    return list(request.getfixturevalue("pair"))


@pytest.fixture(autouse=True)
def _forgotten(provider: ProviderThread) -> None:
    provider.requests.clear()


def leads(pool: ThreadPoolExecutor, cache: Caching, text: str, fake: str, **fields: object) -> Future[Answer]:
    """Somebody asks, and is waited for until the provider has it."""
    before = len(cache.provider.requests)
    leader = pool.submit(cache.ask, text, fake=fake, fields=fields)
    cache.gateway.wait_for(lambda: len(cache.provider.requests) > before)
    return leader


@pytest.mark.parametrize("stream", [False, True])
def test_64_clients_make_one_request(caches: list[Caching], stream: bool) -> None:
    text = new_text()
    fake = "chunk_delay_ms=40" if stream else "delay_ms=400"

    def one(number: int) -> Answer:
        return caches[number % len(caches)].ask(text, fields={"stream": stream}, fake=fake)

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(one, range(64)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert [said(answer)[0] for answer in answers].count("miss") == 1
    assert {said(answer)[0] for answer in answers} <= {"miss", "coalesced", "hit"}
    assert len(caches[0].provider.requests) == 1


def test_longer_than_a_decision_may_take(pair: list[Caching], memory: Caching) -> None:
    """Envoy waits for a decision for two seconds, and longer where it is asked to."""
    for cache, other in ((memory, memory), (pair[0], pair[1])):
        text = new_text()
        with ThreadPoolExecutor(16) as pool:
            leader = leads(pool, cache, text, "delay_ms=2500")
            follower = other.ask(text)
        assert said(follower) == ("coalesced", None), follower.raw
        assert follower.body == leader.result().body


def test_the_deadline(memory: Caching) -> None:
    text = new_text()
    with ThreadPoolExecutor(16) as pool:
        leader = leads(pool, memory, text, "delay_ms=4500")
        started = time.monotonic()
        follower = memory.ask(text)
        assert 2.5 < time.monotonic() - started < 4
    assert (follower.status, said(follower)) == (200, ("miss", "waited"))
    assert leader.result().status == 200
    assert len(memory.provider.requests) == 2


def test_the_leaders_client_leaves(caches: list[Caching]) -> None:
    """Another takes over: who waits is not left alone, and not half an answer is kept."""
    text = new_text()
    response = caches[0].stream(text, fake="chunks=300,chunk_delay_ms=20")
    response.readline()
    with ThreadPoolExecutor(16) as pool:
        followers = [pool.submit(cache.ask, text, fields={"stream": True}) for cache in caches for _ in range(3)]
        time.sleep(0.3)
        assert len(caches[0].provider.requests) == 1
        response.close()
        answers = [follower.result() for follower in followers]
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert answers[0].body.endswith(b"[DONE]\n\n")
    assert [said(answer)[0] for answer in answers].count("miss") == 1
    assert len(caches[0].provider.requests) == 2


def test_the_leaders_client_leaves_before_the_answer(caches: list[Caching]) -> None:
    """Of that only the access log tells, and Envoy sends it to any worker."""
    for _ in range(4):
        text, cache = new_text(), caches[-1]
        headers = (("x-fake", "delay_ms=9000"),)
        with pytest.raises(TimeoutError):
            post(cache.gateway.listen, question(text), key="sk-a", headers=headers, timeout=0.3)
        started = time.monotonic()
        answer = cache.ask(text)
        assert (answer.status, said(answer)) == (200, ("miss", None))
        assert time.monotonic() - started < 2.5


def test_the_leaders_provider_fails(caches: list[Caching]) -> None:
    text = new_text()
    with ThreadPoolExecutor(16) as pool:
        leader = leads(pool, caches[0], text, "delay_ms=600,status=400")
        followers = [pool.submit(cache.ask, text) for cache in caches for _ in range(3)]
        answers = [follower.result() for follower in followers]
    assert leader.result().status == 400
    assert {answer.status for answer in answers} == {200}
    assert len(caches[0].provider.requests) == 2


def test_an_answer_that_cannot_be_shared(caches: list[Caching]) -> None:
    text = new_text()
    with ThreadPoolExecutor(16) as pool:
        leader = leads(pool, caches[0], text, "delay_ms=600,finish=content_filter")
        followers = [pool.submit(cache.ask, text) for cache in caches for _ in range(3)]
        answers = [follower.result() for follower in followers]
    assert leader.result().json()["choices"][0]["finish_reason"] == "content_filter"
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["choices"][0]["finish_reason"] for answer in answers} == {"stop"}


def test_who_waits_and_leaves(memory: Caching) -> None:
    text = new_text()
    with ThreadPoolExecutor(16) as pool:
        leader = leads(pool, memory, text, "delay_ms=1200")
        with pytest.raises(TimeoutError):
            post(memory.gateway.listen, question(text), key="sk-a", timeout=0.5)
        follower = memory.ask(text)
    assert (leader.result().status, said(follower)[0]) == (200, "coalesced")


def test_gateways_share(pair: list[Caching]) -> None:
    one, other = pair
    text = new_text()
    first = one.ask_and_keep(text)
    for _ in range(4):  # both workers
        assert other.ask(text).body == first.body
        assert said(other.ask(text)) == ("hit", None)
    texts = [new_text() for _ in range(6)]
    answers = [other.ask_and_keep(one) for one in texts]
    assert [one.ask(text).body for text in texts] == [answer.body for answer in answers]


def test_redis_sees_ciphertext(pair: list[Caching], redis_server: RedisServer) -> None:
    text = new_text()
    pair[0].ask_and_keep(text, fake="text=a+very+secret+word")
    with redis_server.client() as client:
        client.select(14)
        values = [client.get(name) or b"" for name in client.keys("headgate:cache:*:value")]
    assert values
    assert not [value for value in values if b"secret" in value or b"chatcmpl" in value]
    # Compressed it could not be seen either, so: no checksum and no plain head.
    assert {value[:1] for value in values} == {b"\x01"}
    assert len({value[1:5] for value in values}) == 1


def test_the_key_stands_nowhere(pair: list[Caching]) -> None:
    for cache in pair:
        seen = cache.gateway.log() + "".join(cache.gateway.get(path)[1] for path in ("/status", "/cache", "/metrics"))
        files = [one for one in cache.gateway.run_dir.iterdir() if one.is_file()]
        # Copies of the configuration hold what it holds; here that is the key itself, for our own eyes only.
        seen += "".join(one.read_text() for one in files if one.suffix != ".yaml")
        assert KEY not in seen
        assert {one.stat().st_mode & 0o077 for one in files if one.suffix == ".yaml"} == {0}


@pytest.mark.parametrize("enforce", ["in_process", "envoy"])
def test_a_hit_counts_one_request_and_no_tokens(memory: Caching, provider: ProviderThread, enforce: str) -> None:
    def left(cache: Caching) -> tuple[int, int]:
        answer = cache.send({**question("left"), "model": "plain", "max_tokens": 10}, "limited")
        found = (answer.header(f"x-ratelimit-remaining-{what}") for what in ("requests", "tokens"))
        requests, tokens = (int(value or "-1") for value in found)
        return requests, tokens

    def check(cache: Caching) -> None:
        text = new_text()
        cache.ask_and_keep(text, "limited")
        time.sleep(1.5)  # until all is settled
        before = left(cache)
        time.sleep(1.5)
        cost = left(cache)  # of a plain request: what it reserves is given back but for its usage
        time.sleep(1.5)
        for _ in range(5):
            assert said(cache.ask(text, "limited"))[0] == "hit"
        after = left(cache)
        assert cost[0] - after[0] == 6
        assert cost[1] - after[1] == before[1] - cost[1]

    if enforce == "in_process":
        check(memory)
        return
    with caching(provider) as cache:
        check(cache)


def test_over_its_requests_a_hit_is_refused(provider: ProviderThread) -> None:
    keys = [key_entry("a", limits={"requests": "6/year"}), key_entry("tokens", limits={"tokens": "300/year"})]
    with caching(provider, keys=keys) as cache:
        text = new_text()
        assert cache.ask(text).status == 200
        cache.gateway.wait_for(lambda: cache.outcomes("kept") == 1)
        assert [cache.ask(text).status for _ in range(7)] == [200] * 5 + [429] * 2
        assert cache.ask(text).error["code"] == "rate_limit_exceeded"


def test_a_redis_that_dies_and_comes_back(provider: ProviderThread, own_redis: RedisServer) -> None:
    with caching(provider, cache={"store": own_redis.url}) as cache:
        text = new_text()
        first = cache.ask_and_keep(text)
        own_redis.kill()
        started = time.monotonic()
        without = [cache.ask(text) for _ in range(5)]
        assert time.monotonic() - started < 3
        assert [(one.status, said(one)) for one in without] == [(200, ("miss", "store"))] * 5
        assert cache.gateway.metric("headgate_cache_errors_total") >= 5
        assert cache.gateway.get("/readyz")[0] == 200
        own_redis.start()
        cache.gateway.wait_for(lambda: said(cache.ask(text))[0] == "hit")
        assert cache.ask(text).body != first.body


def test_a_redis_that_stands_still(provider: ProviderThread, own_redis: RedisServer) -> None:
    with caching(provider, cache={"store": own_redis.url}) as cache:
        text = new_text()
        cache.ask_and_keep(text)
        own_redis.pause()
        try:
            started = time.monotonic()
            assert [cache.ask(text).status for _ in range(5)] == [200] * 5
            assert time.monotonic() - started < 3
        finally:
            own_redis.resume()
        cache.gateway.wait_for(lambda: said(cache.ask(text))[0] == "hit")


def test_redis_dies_while_others_wait(provider: ProviderThread, own_redis: RedisServer) -> None:
    with caching(provider, cache={"store": own_redis.url}) as cache, ThreadPoolExecutor(16) as pool:
        text = new_text()
        leader = leads(pool, cache, text, "delay_ms=800")
        followers = [pool.submit(cache.ask, text) for _ in range(8)]
        time.sleep(0.3)
        own_redis.kill()
        answers = [leader.result(), *(follower.result() for follower in followers)]
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1  # within one process they still share
