"""What one process learns of a target, others know: replicas over Redis, workers by their sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer


def config(limited: ProviderThread, healthy: ProviderThread, **more: Any) -> dict[str, Any]:
    return {
        "providers": {
            "limited": {"dialect": "openai", "base_url": limited.base_url},
            "healthy": {"dialect": "openai", "base_url": healthy.base_url},
        },
        "models": {
            "m": [
                {"provider": "limited", "model": "fake:status=429,retry_after=60"},
                {"provider": "healthy", "model": "good", "priority": 1},
            ]
        },
        "keys": [key_entry("team-a")],
        **more,
    }


def state(gateway: Gateway) -> str:
    return str(json.loads(gateway.get("/status")[1])["targets"]["m"][0]["state"])


def test_a_cool_down_is_shared_by_two_sidecars_over_redis(redis_server: RedisServer) -> None:
    with ProviderThread("limited") as limited, ProviderThread("healthy") as healthy:
        shared = config(limited, healthy, store=redis_server.url)
        with Gateway(shared) as one, Gateway(shared) as other:
            assert state(other) == "available"
            assert post(one.listen, chat("m")).status == 200
            one.wait_for(lambda: state(one) == "cooling")
            other.wait_for(lambda: state(other) == "cooling", 5)
            before = len(limited.requests)
            answer = post(other.listen, chat("m"))
            assert (answer.status, answer.header("x-headgate-attempts")) == (200, "1")
            assert len(limited.requests) == before == 1


@pytest.mark.parametrize("store", ["memory://", "redis"])
def test_workers_tell_each_other(store: str, redis_server: RedisServer) -> None:
    with ProviderThread("limited") as limited, ProviderThread("healthy") as healthy:
        url = redis_server.url if store == "redis" else store
        with Gateway(config(limited, healthy, store=url, workers=3)) as gateway:
            assert post(gateway.listen, chat("m")).status == 200
            gateway.wait_for(lambda: state(gateway) == "cooling")
            gateway.wait_for(lambda: gateway.metric("headgate_target_available", provider="limited") == 0)
            answers = [post(gateway.listen, chat("m")) for _ in range(9)]
            assert {answer.header("x-headgate-attempts") for answer in answers} == {"1"}
            assert len(limited.requests) == 1
