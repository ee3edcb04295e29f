"""Requests and tokens per key: checked before, settled after, the same on the embedded store and on Redis."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Iterator

import pytest
from openai import OpenAI, RateLimitError
from openai.types.chat import ChatCompletionMessageParam

from tests.gateway import Answer, Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

PLACES = [
    *((store, enforce, "log") for store in ("memory", "redis") for enforce in ("envoy", "in_process")),
    *((store, "envoy", "call") for store in ("memory", "redis")),
]


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def gateway(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Gateway]:
    store, enforce, settle = request.param
    with ProviderThread() as provider:
        config = {
            "store": "memory://" if store == "memory" else f"{redis_server.url}?db={PLACES.index(request.param)}",
            "limits": {"enforce": enforce, "settle": settle},
            "providers": {
                "fake": {"dialect": "openai", "base_url": provider.base_url},
                "down": {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"},
            },
            "models": {"gpt-4o": {"provider": "fake"}, "gone": {"provider": "down"}},
            "keys": [
                key_entry("five", limits={"requests": "5/year"}),
                key_entry("other", limits={"requests": "5/year"}),
                *(key_entry(f"tokens-{name}", limits={"tokens": "1000/year"}) for name in TOKEN_KEYS),
                key_entry("both", limits={"requests": "100/year", "tokens": "1000/year"}),
                key_entry("sdk", limits={"requests": "1/year"}),
                key_entry("free"),
                key_entry("burst", limits={"requests": "100/year"}),
            ],
        }
        with Gateway(config) as running:
            yield running


TOKEN_KEYS = ("real", "none", "error", "down", "leave", "denied", "large")


def ask(gateway: Gateway, key: str, fake: str = "", model: str = "gpt-4o", **fields: object) -> Answer:
    return post(gateway.listen, chat(model, **fields), key=f"sk-{key}", headers=(("x-fake", fake),))


def remaining(answer: Answer, what: str) -> int:
    return int(answer.header(f"x-ratelimit-remaining-{what}") or -1)


def used_tokens(gateway: Gateway, key: str, max_tokens: int = 0) -> int:
    """What the key has used, seen by a request that costs nothing once it is settled."""
    probe = ask(gateway, key, "usage_tokens=1", max_tokens=max_tokens)
    return 1000 - remaining(probe, "tokens") - estimate(max_tokens)


def estimate(max_tokens: int) -> int:
    return -(-len(json.dumps(chat("gpt-4o", max_tokens=max_tokens)).encode()) // 4) + max_tokens


def test_requests_are_counted_per_key_and_refused_over_the_limit(gateway: Gateway) -> None:
    answers = [ask(gateway, "five") for _ in range(7)]
    assert [answer.status for answer in answers] == [200] * 5 + [429] * 2
    assert [remaining(answer, "requests") for answer in answers[:5]] == [4, 3, 2, 1, 0]
    refused = answers[-1]
    assert refused.error["code"] == "rate_limit_exceeded"
    assert refused.error["type"] == "requests"
    assert 0 < int(refused.header("retry-after") or 0) <= 31_536_000
    assert refused.header("x-ratelimit-limit-requests") == "5"
    assert refused.header("x-ratelimit-remaining-requests") == "0"
    assert ask(gateway, "other").status == 200


def test_the_real_usage_replaces_the_estimate(gateway: Gateway) -> None:
    for stream in (False, True):
        answer = ask(gateway, "tokens-real", "usage_tokens=100", max_tokens=300, stream=stream)
        assert answer.status == 200
    gateway.wait_for(lambda: used_tokens(gateway, "tokens-real") in range(200, 240))


def test_without_usage_the_estimate_stays(gateway: Gateway) -> None:
    assert ask(gateway, "tokens-none", "usage=none", max_tokens=300).status == 200
    assert used_tokens(gateway, "tokens-none") == estimate(300)


@pytest.mark.parametrize(("key", "fake", "model"), [("error", "status=500", "gpt-4o"), ("down", "", "gone")])
def test_an_answer_that_never_came_costs_nothing(gateway: Gateway, key: str, fake: str, model: str) -> None:
    assert ask(gateway, f"tokens-{key}", fake, model, max_tokens=300).status >= 500
    gateway.wait_for(lambda: used_tokens(gateway, f"tokens-{key}") < 50)


def test_a_client_that_leaves_is_charged_the_estimate(gateway: Gateway) -> None:
    connection = http.client.HTTPConnection(gateway.listen, timeout=10)
    body = json.dumps(chat("gpt-4o", stream=True, max_tokens=300))
    headers = {"authorization": "Bearer sk-tokens-leave", "x-fake": "chunks=500,chunk_delay_ms=20"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    connection.getresponse().read(50)
    connection.close()
    charged = -(-len(body) // 4) + 300
    gateway.wait_for(lambda: gateway.envoy_stat("http.gateway.downstream_rq_active") == 0)
    assert used_tokens(gateway, "tokens-leave") == charged


def test_a_refused_request_uses_nothing(gateway: Gateway) -> None:
    assert ask(gateway, "tokens-denied", "usage=none", max_tokens=800).status == 200
    refused = ask(gateway, "tokens-denied", max_tokens=800)
    assert refused.status == 429
    assert refused.error["type"] == "tokens"
    assert used_tokens(gateway, "tokens-denied") == estimate(800)


def test_a_request_larger_than_the_limit_says_so(gateway: Gateway) -> None:
    refused = ask(gateway, "tokens-large", max_tokens=5000)
    assert refused.status == 429
    assert "The request alone needs more than the limit" in refused.error["message"]
    assert (refused.header("retry-after"), refused.header("x-should-retry")) == (None, "false")


def test_refused_for_tokens_does_not_cost_a_request(gateway: Gateway) -> None:
    assert ask(gateway, "both", max_tokens=5000).status == 429
    answer = ask(gateway, "both", max_tokens=10)
    assert remaining(answer, "requests") == 99
    assert answer.header("x-ratelimit-limit-tokens") == "1000"


def test_a_key_without_limits_asks_nobody(gateway: Gateway) -> None:
    before = gateway.metric("headgate_ratelimit_decisions_total")
    answer = ask(gateway, "free")
    assert answer.status == 200
    assert answer.header("x-ratelimit-limit-requests") is None
    assert gateway.metric("headgate_ratelimit_decisions_total") == before


def test_a_request_asks_only_where_it_must(gateway: Gateway) -> None:
    """Two calls where Envoy asks the rate-limit service and one more where it settles, one where ext_proc decides."""
    in_process = gateway.config["limits"]["enforce"] == "in_process"
    asked = 2 if gateway.config["limits"]["settle"] == "call" else 1
    messages = gateway.metric("headgate_extproc_messages_total")
    calls = 0 if in_process else gateway.envoy_stat("cluster.headgate_ratelimit.upstream_rq_total")
    assert ask(gateway, "both", max_tokens=10).status == 200
    assert gateway.metric("headgate_extproc_messages_total") == messages + 2
    if in_process:
        with pytest.raises(LookupError):
            gateway.envoy_stat("cluster.headgate_ratelimit.upstream_rq_total")
    else:
        gateway.wait_for(lambda: gateway.envoy_stat("cluster.headgate_ratelimit.upstream_rq_total") == calls + asked)
        time.sleep(0.3)
        assert gateway.envoy_stat("cluster.headgate_ratelimit.upstream_rq_total") == calls + asked


def test_the_sdk_sees_a_rate_limit_error(gateway: Gateway) -> None:
    client = OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-sdk", max_retries=0)
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]
    client.chat.completions.create(model="gpt-4o", messages=messages)
    with pytest.raises(RateLimitError) as caught:
        client.chat.completions.create(model="gpt-4o", messages=messages)
    assert caught.value.response.headers["retry-after"]


@pytest.mark.parametrize("enforce", ["envoy", "in_process"])
@pytest.mark.parametrize(("on_error", "status"), [("allow", 200), ("deny", 503)])
def test_a_store_that_dies_follows_the_policy(own_redis: RedisServer, on_error: str, status: int, enforce: str) -> None:
    with ProviderThread() as provider:
        config = {
            "store": own_redis.url,
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"requests": "5/year"})],
            "limits": {"on_error": on_error, "enforce": enforce},
        }
        with Gateway(config) as gateway:
            assert post(gateway.listen, chat()).status == 200
            assert '"store":"answers"' in gateway.get("/readyz")[1]
            own_redis.kill()
            answer = post(gateway.listen, chat())
            assert answer.status == status
            if status == 503:
                assert answer.error["code"] == "gateway_unavailable"
            ready, body = gateway.get("/readyz")
            assert ready == (200 if on_error == "allow" else 503)
            assert "down" in body
            assert gateway.metric("headgate_store_errors_total") >= 1
            own_redis.start()
            gateway.wait_for(lambda: "x-ratelimit-limit-requests" in dict(post(gateway.listen, chat()).headers))


async def test_a_burst_of_400_admits_exactly_the_limit(gateway: Gateway) -> None:
    async def one() -> int:
        host, _, port = gateway.listen.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps(chat()).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-burst\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        return int(answer.split(b" ")[1])

    statuses = await asyncio.gather(*(one() for _ in range(400)))
    assert (statuses.count(200), statuses.count(429)) == (100, 300)
