"""What hits save, in tokens and in money, with the real Envoy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.caching import Caching, caching, new_text, question, said
from tests.gateway import key_entry
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

DEAR, CHEAP = {"input": 10, "output": 30}, {"input": 1, "output": 2}
STREAM = {"stream": True}


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


def models(provider: str = "fake") -> dict[str, object]:
    def both(first: str, second: str) -> list[dict[str, object]]:
        return [
            {"provider": first, "cost": DEAR, "priority": 0},
            {"provider": second, "cost": CHEAP, "priority": 1},
        ]

    return {
        "dear": {"targets": both("fake", "other"), "cache": {}},
        "second": {"targets": both("down", "other"), "cache": {}},
        "unpriced": {"targets": [{"provider": "fake"}], "cache": {}},
        "partly": {"targets": [{"provider": "fake"}, {"provider": "down", "cost": DEAR, "priority": 1}], "cache": {}},
    }


@pytest.fixture(scope="module", params=["memory", "workers"])
def cache(request: pytest.FixtureRequest, provider: ProviderThread, redis_server: RedisServer) -> Iterator[Caching]:
    fake = {"dialect": "openai", "base_url": provider.base_url}
    down = {"dialect": "openai", "base_url": "http://127.0.0.1:9/v1"}
    url = f"{redis_server.url}?db=9"
    shared = {"store": url, "cache": {"store": url}, "workers": 2} if request.param == "workers" else {}
    providers = {"fake": fake, "other": fake, "down": down}
    with caching(provider, providers=providers, models=models(), answer_headers=False, **shared) as found:
        yield found


def saved(cache: Caching, model: str) -> tuple[float, float]:
    return (
        cache.gateway.metric("headgate_cache_saved_tokens_total", model=model),
        cache.gateway.metric("headgate_cache_saved_cost_total", model=model),
    )


@pytest.mark.parametrize("fields", [{}, STREAM, {**STREAM, "stream_options": {"include_usage": True}}])
@pytest.mark.parametrize(("model", "price"), [("dear", DEAR), ("second", CHEAP), ("unpriced", None), ("partly", None)])
def test_a_hit_saves_what_its_answer_cost(
    cache: Caching, model: str, price: dict[str, int] | None, fields: dict[str, object]
) -> None:
    text = new_text()
    first = cache.ask_and_keep(text, model=model, fields=fields)
    assert (b'"total_tokens"' in first.body) == (fields != STREAM)  # else it is taken out of the stream
    usage = cache.ask_and_keep(new_text(), model=model).json()["usage"]
    before = saved(cache, model)
    for _ in range(3):
        assert said(cache.ask(text, model=model, fields=fields))[0] == "hit"
    after = saved(cache, model)
    assert after[0] - before[0] == 3 * usage["total_tokens"]
    cost = 0.0
    if price is not None:
        cost = (usage["prompt_tokens"] * price["input"] + usage["completion_tokens"] * price["output"]) / 1e6
    assert after[1] - before[1] == pytest.approx(3 * cost)
    shown = json.loads(cache.gateway.get("/cache")[1])
    assert shown["models"][model]["saved_tokens"] == after[0]
    assert shown["models"][model]["saved_cost"] == (None if price is None else pytest.approx(after[1], abs=1e-6))
    assert shown["saved_tokens"] == sum(one["saved_tokens"] for one in shown["models"].values())


def test_a_client_that_leaves_behind_the_last_event(cache: Caching) -> None:
    """As SDKs do. What the meter has taken out of the stream by then is known all the same."""
    text = new_text()
    response = cache.stream(text, model="dear", fake="chunk_delay_ms=50")
    while not response.readline().startswith(b"data: [DONE]"):
        pass
    response.readline()
    response.close()
    cache.gateway.wait_for(lambda: cache.has(text, model="dear", fields=STREAM))
    before = saved(cache, "dear")
    assert said(cache.ask(text, model="dear", fields=STREAM))[0] == "hit"
    after = saved(cache, "dear")
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_stats(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text, model="dear")
    cache.ask(text, model="dear")
    cache.ask(new_text(), model="unpriced")
    command = [sys.executable, "-m", "headgate", "cache", "stats", "--admin", cache.gateway.admin]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    words = {line.split()[0]: line.split()[1:] for line in lines if line}
    assert float(words["saved_cost"][0]) > 0
    assert words["model"] == ["hits", "misses", "saved_tokens", "saved_cost"]
    assert float(words["dear"][3]) == pytest.approx(float(saved(cache, "dear")[1]), abs=1e-6)
    assert words["unpriced"][3] == "-"
    assert "worth" in subprocess.run(
        [sys.executable, "-m", "headgate", "status", "--admin", cache.gateway.admin],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def test_who_is_refused_saves_nothing(provider: ProviderThread) -> None:
    priced = {"dear": {"targets": [{"provider": "fake", "cost": DEAR}], "cache": {}}}
    with caching(provider, models=priced, keys=[key_entry("a", limits={"requests": "3/year"})]) as cache:
        body = question(new_text(), model="dear")
        assert cache.send(body).status == 200
        cache.gateway.wait_for(lambda: cache.outcomes("kept", "dear") == 1)
        assert [cache.send(body).status for _ in range(4)] == [200, 200, 429, 429]
        assert saved(cache, "dear")[0] == 2 * 12
