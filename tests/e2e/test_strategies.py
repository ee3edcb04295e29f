"""Which target goes first, over thousands of requests through the real gateway."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.gateway import Gateway, key_entry
from tests.provider_thread import ProviderThread

CONNECTIONS = 32
WEIGHTS = {"a": 1, "b": 2, "c": 7}
SLOW, FAST = "fake:delay_ms=300", "fake:delay_ms=20"


@dataclass(frozen=True)
class Scales:
    gateway: Gateway

    async def ask(self, bodies: Sequence[dict[str, Any]], connections: int = CONNECTIONS) -> list[str]:
        """Who has served each, in order."""
        found = [""] * len(bodies)
        waiting = iter(enumerate(bodies))
        headers = {"authorization": "Bearer sk-team-a", "content-type": "application/json"}

        async def one(session: aiohttp.ClientSession) -> None:
            for number, body in waiting:
                url = f"{self.gateway.url}/v1/chat/completions"
                async with session.post(url, data=json.dumps(body), headers=headers) as response:
                    await response.read()
                    assert response.status == 200
                    assert response.headers["x-headgate-attempts"] == "1"
                    found[number] = response.headers["x-headgate-provider"]

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as session:
            await asyncio.gather(*(one(session) for _ in range(connections)))
        return found

    async def shares(self, model: str, many: int) -> Counter[str]:
        return Counter(await self.ask([said(model, "Hi")] * many))


def said(model: str, *texts: str) -> dict[str, Any]:
    """A conversation."""
    roles = ("system", "user", "assistant", "user")
    messages = [{"role": roles[min(place, 3)], "content": text} for place, text in enumerate(texts)]
    return {"model": model, "messages": messages}


@pytest.fixture(scope="module")
def scales() -> Iterator[Scales]:
    with ProviderThread("one", record=False) as one:

        def weighted(**more: Any) -> list[dict[str, Any]]:
            return [{"provider": name, "weight": weight, **more} for name, weight in WEIGHTS.items()]

        slow_and_fast = [{"provider": "a", "model": SLOW}, {"provider": "b", "model": FAST}]
        config = {
            "providers": {name: {"dialect": "openai", "base_url": one.base_url, "api_key": name} for name in WEIGHTS},
            "models": {
                "weighted": {"strategy": "weighted", "targets": weighted(model="m")},
                "round_robin": {"strategy": "round_robin", "targets": weighted(model="m")},
                "least_requests": {"strategy": "least_requests", "targets": slow_and_fast},
                "latency": {"strategy": "latency", "targets": slow_and_fast},
                "affinity": {"strategy": "affinity", "targets": weighted(model="m")},
                "user": {"strategy": "affinity", "affinity": "user", "targets": weighted(model="m")},
                "cost": {
                    "strategy": "cost",
                    "targets": [
                        {"provider": "a", "model": "m", "cost": {"input": 1, "output": 10}},
                        {"provider": "b", "model": "m", "cost": {"input": 5, "output": 1}},
                        {"provider": "c", "model": "m", "cost": {"input": 6, "output": 11}},
                    ],
                },
                "priority": [
                    {"provider": "a", "model": "m", "priority": 1, "weight": 100}, {"provider": "b", "model": "m"},
                ],
            },
            "keys": [key_entry("team-a")],
            "log": {"requests": False},
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Scales(gateway)


async def test_weighted_is_by_chance_in_proportion(scales: Scales) -> None:
    many = 2000
    shares = await scales.shares("weighted", many)
    expected = {name: many * weight / sum(WEIGHTS.values()) for name, weight in WEIGHTS.items()}
    chi_square = sum((shares[name] - mean) ** 2 / mean for name, mean in expected.items())
    assert chi_square < 23.0, shares  # two degrees of freedom: by chance once in 100,000
    assert chi_square > 0  # turns would be exact


async def test_round_robin_is_exact(scales: Scales) -> None:
    assert await scales.shares("round_robin", 2000) == {"a": 200, "b": 400, "c": 1400}


async def test_a_lower_priority_takes_all(scales: Scales) -> None:
    assert await scales.shares("priority", 200) == {"b": 200}


async def test_least_requests_spares_the_slow(scales: Scales) -> None:
    """With as many open at each, one that takes fifteen times as long gets a fifteenth; what we learn late adds some."""
    shares = Counter(await scales.ask([said("least_requests", "Hi")] * 400, connections=8))
    assert 0 < shares["a"] < shares["b"] / 3, shares


async def test_latency_prefers_the_fast(scales: Scales) -> None:
    await scales.shares("latency", 100)

    def measured() -> bool:
        return all(target["first_byte_ms"] is not None for target in scales.gateway.targets("latency"))

    scales.gateway.wait_for(measured)
    shares = await scales.shares("latency", 1000)
    assert shares["a"] < 80, shares  # one in twenty looks whether the slow is still slow, half of them go there: 25
    assert shares["a"] > 0


async def test_affinity_keeps_a_conversation_and_spreads_many(scales: Scales) -> None:
    conversations = []
    for number in range(200):
        opening = ("You help.", f"Question {number}")
        conversations.append([said("affinity", *opening, *["more"] * turn) for turn in range(3)])
    bodies = [body for conversation in conversations for body in conversation]
    order = list(range(len(bodies)))
    random.Random(7).shuffle(order)
    shuffled = await scales.ask([bodies[index] for index in order])
    served = dict(zip(order, shuffled, strict=True))
    firsts: list[str] = []
    for number in range(len(conversations)):
        same = {served[3 * number + turn] for turn in range(3)}
        assert len(same) == 1
        firsts += same
    shares = Counter(firsts)
    assert 4 <= shares["a"] <= 40, shares  # 20 +- 4
    assert 110 <= shares["c"] <= 170, shares  # 140 +- 6.5


async def test_affinity_of_a_user_and_of_a_cache_key(scales: Scales) -> None:
    for model, field in (("user", "user"), ("affinity", "prompt_cache_key")):
        same = [{**said(model, "x", str(number)), field: "one"} for number in range(50)]
        assert len(set(await scales.ask(same))) == 1
        others = [{**said(model, "x", "y"), field: str(number)} for number in range(100)]
        assert len(set(await scales.ask(others))) == 3


async def test_cost_is_of_this_request(scales: Scales) -> None:
    """A long answer costs least at b, a long question at a."""
    long_answer = {**said("cost", "Hi"), "max_tokens": 5000}
    long_question = {**said("cost", "Hi " * 5000), "max_tokens": 1}
    assert Counter(await scales.ask([long_answer] * 100)) == {"b": 100}
    assert Counter(await scales.ask([long_question] * 100)) == {"a": 100}
