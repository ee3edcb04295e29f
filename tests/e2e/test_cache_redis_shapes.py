"""A cache in a cluster and behind sentinels: two gateways, one of them with two workers, and real failovers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.caching import Caching, caching, new_text, said
from tests.e2e.test_cache_admin import purge
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisCluster, Sentinels

PATIENCE = 20.0


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


def gateways(stack: ExitStack, provider: ProviderThread, url: str) -> list[Caching]:
    made = [caching(provider, store=url, cache={"store": url}, workers=workers) for workers in (1, 2)]
    return [stack.enter_context(one) for one in made]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    with RedisCluster(tmp_path_factory.mktemp("c")) as running:
        yield running


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sentinels]:
    with Sentinels(tmp_path_factory.mktemp("s"), count=3) as running:
        yield running


@pytest.fixture(scope="module", params=["cluster", "sentinels"])
def pair(request: pytest.FixtureRequest, provider: ProviderThread) -> Iterator[list[Caching]]:
    url = request.getfixturevalue(request.param).url
    with ExitStack() as stack:
        yield gateways(stack, provider, url)


def test_kept_by_one_and_found_by_the_other(pair: list[Caching]) -> None:
    one, other = pair
    for fields in ({}, {"stream": True}):
        texts = [new_text() for _ in range(8)]  # in many slots
        answers = [one.ask_and_keep(text, fields=fields) for text in texts]
        for text, answer in zip(texts, answers, strict=True):
            for _ in range(2):  # both workers
                found = other.ask(text, fields=fields)
                assert (said(found), found.body) == (("hit", None), answer.body)


def test_purge(pair: list[Caching]) -> None:
    one, other = pair
    asked = [("a", "cached"), ("b", "cached"), ("a", "team"), ("lone", "team"), ("c", "shared")]
    everything = {f"{key} {model}" for key, model in asked}
    wanted: list[tuple[dict[str, object], set[str]]] = [
        ({"key": "b"}, {"b cached"}),
        ({"model": "team"}, {"a team", "lone team"}),
        ({"tag": "team:red"}, {"a team"}),
        ({"all": True}, everything),
    ]
    purge(one, b'{"all":true}')
    for names, gone in wanted:
        text = new_text()
        for key, model in asked:
            one.ask_and_keep(text, key, model=model)
        assert purge(other, json.dumps(names).encode()) == (200, {"purged": len(gone)}), names
        assert {f"{key} {model}" for key, model in asked if one.has(text, key, model=model)} == everything - gone
        purge(one, b'{"all":true}')


def test_stats(pair: list[Caching]) -> None:
    for cache in pair:
        before = json.loads(cache.gateway.get("/cache")[1])
        assert before["store"] in ("redis+cluster", "redis+sentinel")
        text = new_text()
        cache.ask_and_keep(text)
        assert said(cache.ask(text))[0] == "hit"
        after = json.loads(cache.gateway.get("/cache")[1])
        assert after["hits"] > before["hits"]
        assert after["saved_tokens"] > before["saved_tokens"]
        assert json.loads(cache.gateway.get("/readyz")[1])["dependencies"]["cache"] == "answers"


@pytest.mark.parametrize("stream", [False, True])
def test_one_request_for_64(pair: list[Caching], stream: bool) -> None:
    provider = pair[0].provider
    provider.requests.clear()
    text = new_text()
    fake = "chunk_delay_ms=40" if stream else "delay_ms=400"

    def ask(number: int) -> tuple[int, bytes]:
        answer = pair[number % 2].ask(text, fields={"stream": stream}, fake=fake)
        return answer.status, answer.body

    with ThreadPoolExecutor(64) as pool:
        answers = set(pool.map(ask, range(64)))
    assert len(answers) == 1
    assert answers.pop()[0] == 200
    assert len(provider.requests) == 1


@pytest.mark.parametrize("dies", [False, True])
def test_a_failover_while_clients_ask(provider: ProviderThread, tmp_path: Path, *, dies: bool) -> None:
    """Nobody gets an error; what was replicated is found again, by both."""
    with Sentinels(tmp_path, count=3) as sentinels, ExitStack() as stack:
        pair = gateways(stack, provider, sentinels.url)
        text = new_text()
        first = pair[0].ask_and_keep(text)
        time.sleep(0.5)  # until the replica has it, too
        old, _ = sentinels.roles()
        statuses: list[int] = []
        with ThreadPoolExecutor(4) as pool:
            if dies:
                old.kill()
            else:
                sentinels.fail_over()
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                answers = list(pool.map(lambda number: pair[number % 2].ask(text), range(4)))
                statuses += [answer.status for answer in answers]
                if sentinels.master() != old.port and all(said(answer) == ("hit", None) for answer in answers):
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("nobody has taken over")
            if not dies:
                # The old master answers as one for a while: a hit does not tell that a gateway has left it.
                pair[0].gateway.wait_for(lambda: not old.clients("headgate"), 5)
        assert set(statuses) == {200}
        for cache in pair:
            assert cache.ask(text).body == first.body
            assert said(cache.ask(new_text()))[0] == "miss"
        # What the old master took just before it knew that it was one no more is lost, and nothing else.
        purge(pair[1], b'{"model":"cached"}')
        assert not any(cache.has(text) for cache in pair)
        kept = new_text()
        pair[0].ask_and_keep(kept)
        assert pair[1].has(kept)


def test_a_node_of_a_cluster_dies_and_comes_back(provider: ProviderThread, tmp_path: Path) -> None:
    """Requests whose answers are kept there go on without a cache; the others are answered from it (until the cluster
    notices, and answers nothing)."""
    with RedisCluster(tmp_path) as cluster, caching(provider, cache={"store": cluster.url}) as cache:
        texts = [new_text() for _ in range(12)]
        for text in texts:
            cache.ask_and_keep(text)
        node = cluster.nodes[1]
        node.kill()
        started = time.monotonic()
        answers = [cache.ask(text) for text in texts]
        assert time.monotonic() - started < 5
        assert {answer.status for answer in answers} == {200}
        assert {said(answer) for answer in answers} <= {("hit", None), ("miss", "store")}
        assert ("miss", "store") in {said(answer) for answer in answers}
        status, body = purge(cache, b'{"model":"cached"}')
        assert (status, "the store failed" in str(body["error"])) == (503, True)
        node.start()
        cache.gateway.wait_for(lambda: all(said(cache.ask(text))[0] in ("hit", "coalesced") for text in texts), 20)
        assert purge(cache, b'{"all":true}')[0] == 200
        assert not any(cache.has(text) for text in texts)
