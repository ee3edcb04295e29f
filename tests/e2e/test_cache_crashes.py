"""Whatever dies in the middle of an answer: the client has a whole one or a broken one, the cache a whole one or none."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from tests.e2e.caching import Caching, caching, new_text, said
from tests.gateway import Answer
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

SLOW = "chunks=30,chunk_delay_ms=30"
WHOLE = 33  # events: role, 30 words, finish, [DONE]
STREAM = {"stream": True}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


@pytest.fixture(scope="module", params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, provider: ProviderThread, redis_server: RedisServer) -> Iterator[Caching]:
    store = "memory://" if request.param == "memory" else f"{redis_server.url}?db=13"
    with caching(provider, cache={"store": store, "wait": 5}) as found:
        yield found


def asked(cache: Caching, text: str) -> Answer | None:
    with suppress(OSError, ValueError):
        answer = cache.ask(text, fields=STREAM, fake="chunks=30")
        return answer if answer.status == 200 else None
    return None


def comes_back(cache: Caching, text: str) -> Answer:
    """The first answer after a crash, which may take a while."""
    found: list[Answer] = []

    def answers() -> bool:
        answer = asked(cache, text)
        found.extend([answer] if answer is not None else [])
        return answer is not None

    cache.gateway.wait_for(answers, 20)
    return found[0]


def is_hit(answer: Answer | None) -> bool:
    return answer is not None and said(answer)[0] == "hit"


def is_whole(body: bytes) -> bool:
    return body.count(b"data: ") == WHOLE and body.endswith(b"data: [DONE]\n\n")


def sidecar_serves(cache: Caching, old: int) -> None:
    def serves() -> bool:
        with suppress(OSError, RuntimeError, psutil.Error):
            return cache.gateway.child("sidecar").pid != old and cache.gateway.get("/readyz")[0] == 200
        return False

    cache.gateway.wait_for(serves, 20)


@pytest.mark.parametrize("after", [0, 10, 32])
def test_the_sidecar_dies_in_mid_capture(cache: Caching, after: int) -> None:
    text = new_text()
    response = cache.stream(text, fake=SLOW)
    body = b""
    while body.count(b"data: ") <= after:
        body += response.readline()
    sidecar = cache.gateway.child("sidecar")
    sidecar.kill()
    body += response.read()
    assert is_whole(body)
    sidecar_serves(cache, sidecar.pid)
    again = comes_back(cache, text)
    assert is_whole(again.body)
    # Kept just before it died, or asked anew: never half of it.
    assert said(again)[0] == "miss" or again.body == body


def test_the_sidecar_dies_while_others_wait(cache: Caching) -> None:
    """Their decisions die with it: errors at once, and no half answers. Nobody waits for a leader that is gone."""
    text = new_text()
    response = cache.stream(text, fake=SLOW)
    body = response.readline()
    sidecar = cache.gateway.child("sidecar")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(cache.ask, text, fields=STREAM) for _ in range(4)]
        time.sleep(0.3)
        sidecar.kill()
        answers = [one.result() for one in waiting]
    assert all(answer.status in (500, 502, 503, 504) or is_whole(answer.body) for answer in answers)
    body += response.read()
    assert is_whole(body)
    sidecar_serves(cache, sidecar.pid)
    started = time.monotonic()
    assert is_whole(comes_back(cache, text).body)
    assert time.monotonic() - started < 8  # a lock in Redis ends by itself


def test_envoy_dies_in_mid_stream(cache: Caching) -> None:
    text, before = new_text(), cache.outcomes("cut")
    response = cache.stream(text, fake=SLOW)
    got = b"".join(response.readline() for _ in range(12))
    cache.gateway.child("envoy").kill()
    with suppress(http.client.IncompleteRead, OSError):
        got += response.read()
    assert not is_whole(got)
    cache.gateway.wait_for(lambda: cache.outcomes("cut") == before + 1)
    again = comes_back(cache, text)
    assert is_whole(again.body)
    assert said(again) == ("miss", None)


def test_redis_dies_while_an_answer_comes(provider: ProviderThread, own_redis: RedisServer) -> None:
    with caching(provider, cache={"store": own_redis.url}) as cache:
        for events in (1, 12, 33):
            text = new_text()
            response = cache.stream(text, fake=SLOW)
            body = b""
            while body.count(b"data: ") < events:
                body += response.readline()
            own_redis.kill()
            body += response.read()
            assert is_whole(body)
            again = comes_back(cache, text)
            assert is_whole(again.body)
            assert said(again) == ("miss", "store")
            own_redis.start()
            cache.gateway.wait_for(lambda text=text: is_hit(asked(cache, text)))
            kept = asked(cache, text)
            assert kept is not None
            assert is_whole(kept.body)


def test_an_answer_that_comes_after_the_sidecar_has_died_is_nobody_elses(provider: ProviderThread) -> None:
    """The sidecar that comes back counts its tickets anew: none of them may be an old one."""
    with caching(provider) as cache, ThreadPoolExecutor(4) as pool:
        old = pool.submit(cache.ask, "a secret", fake="delay_ms=6000,text=secret")
        cache.gateway.wait_for(lambda: any(b"a secret" in one.body for one in provider.requests))
        sidecar = cache.gateway.child("sidecar")
        sidecar.kill()
        sidecar_serves(cache, sidecar.pid)
        new = pool.submit(cache.ask, "a question", "c", fake="delay_ms=8000,text=answer")
        assert b"secret" in old.result().body
        assert b"answer" in new.result().body
        cache.gateway.wait_for(lambda: cache.has("a question", "c"))
        assert cache.ask("a question", "c").body == new.result().body
        assert not cache.has("a secret")
