"""Answers by meaning, with the real Envoy and a real Redis 8: the vectors come over Envoy, which puts in the key."""

from __future__ import annotations

import copy
import json
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from headgate.fake_provider.behaviour import Behaviour
from tests.e2e.caching import KEYS, Caching, question, said
from tests.e2e.test_cache_admin import purge
from tests.gateway import Answer, Gateway
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

VECTOR_KEY = "sk-of-the-vectors"


def config(provider: ProviderThread, vectors: ProviderThread, store: str, **semantic: Any) -> dict[str, Any]:
    rules = {"threshold": 0.8, "scope": "key", "embeddings": "embedder", "timeout": 5, **semantic}
    return {
        "providers": {
            "fake": {"dialect": "openai", "base_url": provider.base_url, "api_key": "ours"},
            "vectors": {"dialect": "openai", "base_url": vectors.base_url, "api_key": "${VECTOR_KEY}"},
        },
        "models": {
            "cached": {"targets": [{"provider": "fake"}], "cache": {"semantic": rules}},
            "team": {
                "targets": [{"provider": "fake"}],
                "cache": {"scope": "team", "semantic": {**rules, "scope": "team"}},
            },
            "hasty": {"targets": [{"provider": "fake"}], "cache": {"semantic": {**rules, "timeout": 0.05}}},
            "plain": {"provider": "fake"},
            "paced": {
                "targets": [{"provider": "fake"}],
                "cache": {"replay": "paced", "events_per_second": 100, "semantic": rules},
            },
            "exact": {"targets": [{"provider": "fake"}], "cache": {}},
            "embedder": {"provider": "vectors", "model": "te3"},
        },
        "keys": KEYS,
        "cache": {"store": f"{store}?socket_timeout=5"},
    }


@dataclass(frozen=True)
class House:
    """The gateway, its two providers, and how to ask."""

    caching: Caching
    vectors: ProviderThread

    def keep(self, text: str, **how: Any) -> Answer:
        """Ask something new, and wait until it is found by meaning."""
        answer = self.caching.ask(text, **how)
        assert said(answer)[0] == "miss", answer.raw
        near = f"{text}?"
        self.caching.gateway.wait_for(
            lambda: self.caching.ask(near, **{**how, "control": "only-if-cached"}).status == 200
        )
        return answer


@pytest.fixture(scope="module")
def shared(vector_server: RedisServer) -> Iterator[House]:
    with (
        ProviderThread() as provider,
        ProviderThread("vectors", Behaviour.parse("embedding=words")) as vectors,
        Gateway(config(provider, vectors, vector_server.url), {"VECTOR_KEY": VECTOR_KEY}) as gateway,
    ):
        yield House(Caching(gateway, provider), vectors)


@pytest.fixture
def house(shared: House) -> House:
    shared.caching.provider.requests.clear()
    shared.vectors.requests.clear()
    shared.vectors.behave("embedding=words")
    return shared


def new_topic() -> str:
    """Words that no other test has asked about, enough of them: a question about another topic is not near."""
    return " ".join(secrets.token_hex(6) for _ in range(4))


def test_near_enough_and_not(house: House) -> None:
    topic = new_topic()
    first = house.keep(f"How do I reset the password of {topic}")
    house.caching.provider.requests.clear()
    near = house.caching.ask(f"How do I reset my password of {topic}?")
    assert (near.status, said(near)) == (200, ("semantic", None))
    assert near.body == first.body
    assert 0.8 <= float(near.header("x-headgate-cache-similarity") or 0) < 1
    assert int(near.header("age") or "-1") in range(10)
    assert len(house.caching.provider.requests) == 0
    far = house.caching.ask(f"Which colour has the roof of {topic}?")
    assert said(far) == ("miss", None)
    assert far.header("x-headgate-cache-similarity") is None
    equal = house.caching.ask(f"How do I reset the password of {topic}")
    assert said(equal) == ("hit", None)
    assert equal.header("x-headgate-cache-similarity") is None


def test_envoy_puts_in_the_key_of_the_vectors(house: House) -> None:
    topic = new_topic()
    house.caching.ask(f"All about {topic}", more=(("cookie", "mine"), ("x-forwarded-for", "1.2.3.4")))
    (asked,) = house.vectors.requests
    assert (asked.method, asked.path) == ("POST", "/v1/embeddings")
    assert asked.header("authorization") == f"Bearer {VECTOR_KEY}"
    assert asked.json() == {"model": "te3", "input": f"All about {topic}"}
    names = {name for name, _ in asked.headers}
    assert not {name for name in names if name.startswith(("x-headgate", "x-envoy", "x-forwarded"))}
    assert "cookie" not in names
    sidecar = house.caching.gateway.child("sidecar")
    # Only Envoy is told the key; our own process has it in its environment at most, as the file names it.
    assert VECTOR_KEY not in " ".join(sidecar.cmdline())


def test_the_way_to_the_vectors_is_for_its_owner_alone(house: House) -> None:
    path = house.caching.gateway.run_dir / "embeddings.sock"
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 503")  # no route is named


def test_a_client_cannot_name_the_route(house: House) -> None:
    forged = house.caching.ask(f"About {new_topic()}", model="exact", more=(("x-headgate-route", "embedder"),))
    assert said(forged) == ("miss", None)
    assert len(house.vectors.requests) == 0


@pytest.mark.parametrize(
    "other",
    [
        {"key": "b"},
        {"salt": "s"},
        {"model": "team"},
        {"fields": {"max_tokens": 7}},
        {"fields": {"stream": True}},
        {"fields": {"seed": 1}},
    ],
)
def test_nothing_else_may_differ(house: House, other: dict[str, Any]) -> None:
    topic = new_topic()
    house.keep(f"How do I reset the password of {topic}")
    assert said(house.caching.ask(f"How do I reset the password of {topic}!"))[0] == "semantic"
    assert said(house.caching.ask(f"How do I reset the password of {topic}!", **other))[0] == "miss"


def test_the_system_prompt_must_be_equal(house: House) -> None:
    def body(system: str, text: str) -> dict[str, Any]:
        made = question(text)
        made["messages"].insert(0, {"role": "system", "content": system})
        return made

    topic = new_topic()
    house.caching.send(body("Answer in French.", f"How old is {topic}"))
    near = body("Answer in French.", f"How old is {topic}?")
    house.caching.gateway.wait_for(lambda: said(house.caching.send(near, control="only-if-cached"))[0] == "semantic")
    assert said(house.caching.send(body("Answer in Greek.", f"How old is {topic}?")))[0] == "miss"


def test_a_team_shares(house: House) -> None:
    topic = new_topic()
    house.keep(f"How do I reset the password of {topic}", model="team", key="a")
    near = f"How do I reset the password of {topic}!"
    assert said(house.caching.ask(near, "b", model="team"))[0] == "semantic"
    assert said(house.caching.ask(near, "c", model="team"))[0] == "miss"


@pytest.mark.parametrize("model", ["cached", "paced"])
def test_a_stream_is_replayed(house: House, model: str) -> None:
    topic = new_topic()
    first = house.keep(f"How do I reset the password of {topic}", model=model, fields={"stream": True})
    near = house.caching.ask(f"How do I reset the password of {topic}!", model=model, fields={"stream": True})
    assert said(near)[0] == "semantic"
    assert (near.body, near.header("content-type")) == (first.body, "text/event-stream")


def test_what_a_client_may_say(house: House) -> None:
    topic = new_topic()
    house.keep(f"How do I reset the password of {topic}")
    asked, near = len(house.vectors.requests), f"How do I reset a password of {topic}"
    assert said(house.caching.ask(near, control="exact-only, only-if-cached"))[0] == "miss"
    assert said(house.caching.ask(near, control="no-store")) == ("bypass", "no_store")
    assert len(house.vectors.requests) == asked
    assert said(house.caching.ask(near, control="only-if-cached"))[0] == "semantic"
    assert said(house.caching.ask(f"{near}, please", control="no-cache")) == ("miss", "no_cache")
    far = house.caching.ask(f"Who is the mayor of {topic}", control="only-if-cached")
    assert (far.status, far.error["code"]) == (504, "not_cached")


def test_a_purge_reaches_it(house: House) -> None:
    topic = new_topic()
    house.keep(f"How do I reset the password of {topic}", key="lone")
    near = f"How do I reset the password of {topic}!"
    assert said(house.caching.ask(near, "lone"))[0] == "semantic"
    gateway = house.caching.gateway
    body, kind = json.dumps({"key": "lone"}).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(f"http://{gateway.admin}/cache/purge", body, kind)
    with urllib.request.urlopen(request, timeout=10) as response:
        assert json.load(response)["purged"] >= 1
    assert said(house.caching.ask(near, "lone"))[0] == "miss"


def test_a_hit_costs_what_an_exact_one_does(house: House) -> None:
    topic = new_topic()
    house.keep(f"How do I reset the password of {topic}", key="limited")

    def left() -> tuple[int, int]:
        time.sleep(1.5)  # until all is settled
        answer = house.caching.send({**question("left"), "model": "plain", "max_tokens": 10}, "limited")
        requests, tokens = (
            int(answer.header(f"x-ratelimit-remaining-{what}") or "-1") for what in ("requests", "tokens")
        )
        return requests, tokens

    before, cost = left(), left()  # of a plain request: what it reserves is given back but for its usage
    near = [f"How do I reset the password of {topic}{mark}" for mark in ("!", "", "?!")]
    assert [said(house.caching.ask(text, "limited"))[0] for text in near] == ["semantic", "hit", "semantic"]
    after = left()
    assert cost[0] - after[0] == 4
    assert cost[1] - after[1] == before[1] - cost[1]


def test_without_a_vector_in_time_the_provider_answers(house: House) -> None:
    house.vectors.behave("embedding=words,delay_ms=500")
    late = house.caching.ask(f"How do I reset the password of {new_topic()}", model="hasty")
    assert (late.status, said(late)) == (200, ("miss", "embeddings"))
    house.vectors.behave("status=500")
    failed = house.caching.ask(f"How do I reset the password of {new_topic()}")
    assert (failed.status, said(failed)) == (200, ("miss", "embeddings"))
    gateway = house.caching.gateway
    assert gateway.metric("headgate_semantic_lookups_total", model="hasty", result="failed", reason="timeout") == 1
    assert gateway.metric("headgate_semantic_lookups_total", model="cached", result="failed", reason="status") == 1
    assert gateway.metric("headgate_semantic_errors_total", part="embeddings") == 2


def test_metrics(house: House) -> None:
    gateway, topic = house.caching.gateway, new_topic()

    def seen(result: str) -> float:
        return gateway.metric("headgate_semantic_lookups_total", model="cached", result=result)

    house.keep(f"How do I reset the password of {topic}")
    before = {result: seen(result) for result in ("hit", "miss", "unfit")}
    saved = gateway.metric("headgate_semantic_saved_tokens_total", model="cached")
    spent = gateway.metric("headgate_semantic_embedding_tokens_total", model="embedder")
    exact = gateway.metric("headgate_cache_requests_total", model="cached", result="hit")
    house.caching.ask(f"How do I reset the password of {topic}!")
    house.caching.ask(f"Who is the mayor of {topic}")
    parts = [{"type": "text", "text": topic}]
    house.caching.send({**question(""), "messages": [{"role": "user", "content": parts}]})
    assert {result: seen(result) - before[result] for result in before} == {"hit": 1, "miss": 1, "unfit": 1}
    assert gateway.metric("headgate_semantic_saved_tokens_total", model="cached") > saved
    assert gateway.metric("headgate_semantic_embedding_tokens_total", model="embedder") > spent
    assert gateway.metric("headgate_semantic_lookup_seconds_count", model="cached") >= 3
    assert gateway.metric("headgate_cache_requests_total", model="cached", result="hit") == exact


def test_the_evaluation_asks_a_running_gateway(house: House) -> None:
    command = [sys.executable, "-m", "headgate", "cache", "evaluate", "--model", "embedder", "--json"]
    gateway = ["--url", f"{house.caching.gateway.url}/v1"]
    done = subprocess.run(
        [*command, *gateway],
        capture_output=True,
        env={**os.environ, "HEADGATE_API_KEY": "sk-a"},
        timeout=60,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 150
    assert {asked.header("authorization") for asked in house.vectors.requests} == {f"Bearer {VECTOR_KEY}"}


def test_a_reload_changes_the_threshold_and_who_makes_the_vectors(vector_server: RedisServer) -> None:
    with ProviderThread() as provider, ProviderThread("v", Behaviour.parse("embedding=words")) as vectors:
        before = config(provider, vectors, vector_server.url)
        # The first of its endpoints is down: Envoy goes to the next.
        del before["providers"]["vectors"]["base_url"]
        before["providers"]["vectors"]["base_urls"] = ["http://127.0.0.1:9/v1", vectors.base_url]
        with Gateway(before, {"VECTOR_KEY": VECTOR_KEY}) as gateway:
            house, topic = House(Caching(gateway, provider), vectors), new_topic()
            house.keep(f"How do I reset the password of {topic}")
            after = copy.deepcopy(before)
            after["models"]["embedder"]["model"] = "another"
            gateway.write_config(after)
            gateway.wait_for(lambda: gateway.log_lines("config_taken"))
            near = house.caching.ask(f"How do I reset the password of {topic}!")
            assert said(near)[0] == "miss"  # vectors of two models are not compared
            assert vectors.requests[len(vectors.requests) - 1].json()["model"] == "another"
            topic = new_topic()
            house.keep(f"How do I reset the password of {topic}, and when")
            assert said(house.caching.ask(f"How can I reset the password of {topic}, and when"))[0] == "semantic"
            after["models"]["cached"]["cache"]["semantic"]["threshold"] = 0.999
            gateway.write_config(after)
            gateway.wait_for(lambda: len(gateway.log_lines("config_taken")) == 2)
            assert said(house.caching.ask(f"How can I reset the password of {topic}, and when"))[0] == "miss"


def test_a_store_without_vectors_is_refused(redis_server: RedisServer) -> None:
    with ProviderThread() as provider, ProviderThread("vectors") as vectors:
        gateway = Gateway(config(provider, vectors, redis_server.url), {"VECTOR_KEY": VECTOR_KEY})
        try:
            with pytest.raises(RuntimeError) as raised:
                gateway.start()
        finally:
            gateway.kill()
    said_of = str(raised.value)
    assert "models.cached.cache.semantic: the cache's store has no vector sets (ERR unknown command" in said_of
    assert "(use Redis 8 or newer as `cache.store`, or take `semantic` out)" in said_of
    assert "headgate.yaml:" in said_of


def test_the_first_one_takes_a_restart(vector_server: RedisServer) -> None:
    with ProviderThread() as provider, ProviderThread("v", Behaviour.parse("embedding=words")) as vectors:
        after = config(provider, vectors, vector_server.url)
        before = copy.deepcopy(after)
        for model in before["models"].values():
            model.get("cache", {}).pop("semantic", None)
        with Gateway(before, {"VECTOR_KEY": VECTOR_KEY}) as gateway:
            gateway.write_config(after)
            gateway.wait_for(lambda: gateway.log_lines("config_taken"))
            (line,) = gateway.log_lines("config_needs_restart")
            assert line["settings"] == ["models.*.cache.semantic"]
            answer = Caching(gateway, provider).ask(f"About {new_topic()}")
            assert said(answer) == ("miss", None)
            assert len(vectors.requests) == 0


def test_what_one_worker_keeps_every_worker_finds(vector_server: RedisServer) -> None:
    with (
        ProviderThread() as provider,
        ProviderThread("vectors", Behaviour.parse("embedding=words")) as vectors,
        Gateway(
            {**config(provider, vectors, vector_server.url), "store": vector_server.url, "workers": 2},
            {"VECTOR_KEY": VECTOR_KEY},
        ) as gateway,
    ):
        house, topic = House(Caching(gateway, provider), vectors), new_topic()
        first = house.keep(f"How do I reset the password of {topic}")
        asked = [f"How do I reset my password of {topic}{'?' * marks}" for marks in range(1, 9)]

        def decided() -> list[float]:
            return [gateway.metric("headgate_worker_decisions_total", worker=str(number)) for number in range(2)]

        before = decided()
        answers = [house.caching.ask(text) for text in asked]
        assert [said(answer) for answer in answers] == [("semantic", None)] * len(asked)
        assert {answer.body for answer in answers} == {first.body}
        assert len(provider.requests) == 1
        gateway.wait_for(lambda: all(now > then for now, then in zip(decided(), before, strict=True)))
        assert purge(house.caching, b'{"model":"cached"}')[0] == 200
        assert [said(house.caching.ask(text, control="only-if-cached")) for text in asked[:4]] == [("miss", None)] * 4
