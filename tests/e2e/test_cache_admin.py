"""What operators see of the cache, and how they empty it: the admin port and `headgate cache`."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.e2e.caching import Caching, caching, new_text, said
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderThread]:
    with ProviderThread() as found:
        yield found


@pytest.fixture(scope="module", params=["memory", "workers"])
def cache(request: pytest.FixtureRequest, provider: ProviderThread, redis_server: RedisServer) -> Iterator[Caching]:
    if request.param == "memory":
        with caching(provider) as found:
            yield found
        return
    url = f"{redis_server.url}?db=12"
    with caching(provider, store=url, cache={"store": url}, workers=2) as found:
        yield found


def run(cache: Caching, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "headgate", *arguments, "--admin", cache.gateway.admin]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def purge(cache: Caching, body: bytes, content_type: str = "application/json") -> tuple[int, dict[str, object]]:
    url = f"http://{cache.gateway.admin}/cache/purge"
    request = urllib.request.Request(url, body, {"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_stats(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text)
    before = json.loads(cache.gateway.get("/cache")[1])
    for _ in range(4):
        cache.ask(text)
    after = json.loads(cache.gateway.get("/cache")[1])
    assert after["hits"] == before["hits"] + 4
    assert after["encrypted"] is False
    if after["store"] == "memory":
        assert after["entries"] > 0
        assert after["bytes"] > 300
    assert json.loads(cache.gateway.get("/status")[1])["cache"] == after
    status, shown = run(cache, "cache", "stats")
    assert status == 0
    assert after["store"] in shown
    assert f"{after['hits']:,}" in shown
    assert json.loads(run(cache, "cache", "stats", "--json")[1]) == after
    assert f"cache ({after['store']})" in run(cache, "status")[1]
    assert "cache" in json.loads(cache.gateway.get("/readyz")[1])["dependencies"]


def test_purge(cache: Caching) -> None:
    def fill() -> str:
        text = new_text()
        for key, model in (("a", "cached"), ("b", "cached"), ("a", "team"), ("lone", "team"), ("c", "shared")):
            cache.ask_and_keep(text, key, model=model)
        return text

    def left(text: str) -> set[str]:
        asked = (("a", "cached"), ("b", "cached"), ("a", "team"), ("lone", "team"), ("c", "shared"))
        return {f"{key} {model}" for key, model in asked if cache.has(text, key, model=model)}

    everything = {"a cached", "b cached", "a team", "lone team", "c shared"}
    purge(cache, b'{"all":true}')
    wanted: list[tuple[dict[str, object], set[str]]] = [
        ({"key": "a"}, {"a cached"}),
        ({"key": "lone"}, {"lone team"}),
        ({"model": "cached"}, {"a cached", "b cached"}),
        ({"team": "red"}, {"a team"}),
        ({"tag": "model:shared"}, {"c shared"}),
        ({"key": "b", "model": "shared"}, {"b cached", "c shared"}),
        ({"all": True}, everything),
        ({"model": "nothing"}, set()),
    ]
    for names, gone in wanted:
        text = fill()
        assert purge(cache, json.dumps(names).encode()) == (200, {"purged": len(gone)}), names
        assert left(text) == everything - gone
        purge(cache, b'{"all":true}')


def test_purge_by_command(cache: Caching) -> None:
    text = new_text()
    for key, model in (("a", "cached"), ("b", "cached"), ("a", "team"), ("c", "shared"), ("c", "cached")):
        cache.ask_and_keep(text, key, model=model)
    options = ("--key", "b", "--model", "shared", "--team", "red", "--tag", "key:c")
    assert run(cache, "cache", "purge", *options) == (0, "4 answers forgotten\n")
    assert cache.has(text)
    assert run(cache, "cache", "purge", "--all")[0] == 0
    assert not cache.has(text)


def test_what_is_no_purge(cache: Caching) -> None:
    text = new_text()
    cache.ask_and_keep(text)
    for body in (b"", b"{}", b"[]", b'{"all":false}', b'{"al":true}', b'{"all":1}', b'{"key":1}', b"{", b"\xff"):
        assert purge(cache, body)[0] == 400
    assert purge(cache, b'{"all":true}', "text/plain")[0] == 415  # what a browser's page may send
    assert cache.gateway.get("/cache/purge")[0] == 405
    status, said = run(cache, "cache", "purge")
    assert (status, "--key NAME" in said) == (1, True)
    assert cache.has(text)


def test_without_a_cache_or_a_gateway(provider: ProviderThread) -> None:
    with caching(provider, models={"plain": {"provider": "fake"}}) as cache:
        assert cache.gateway.get("/cache")[0] == 404
        assert purge(cache, b'{"all":true}')[0] == 404
        assert json.loads(cache.gateway.get("/status")[1])["cache"] is None
        status, said = run(cache, "cache", "stats")
        assert (status, "no model has a cache" in said) == (1, True)
    status, said = run(cache, "cache", "stats")
    assert (status, "no gateway answers" in said) == (1, True)


def test_a_purge_without_its_redis(provider: ProviderThread, own_redis: RedisServer) -> None:
    with caching(provider, cache={"store": own_redis.url}) as cache:
        cache.ask_and_keep(new_text())
        own_redis.kill()
        assert purge(cache, b'{"all":true}')[0] == 503
        status, said = run(cache, "cache", "purge", "--all")
        assert (status, "the store failed" in said) == (1, True)
        assert "providers answer everything" in cache.gateway.get("/readyz")[1]
        assert cache.gateway.get("/readyz")[0] == 200


def test_the_first_cache_needs_a_restart(provider: ProviderThread) -> None:
    with caching(provider, models={"cached": {"provider": "fake"}}) as cache:
        with_one = {"cached": {"targets": [{"provider": "fake"}], "cache": {}}}
        cache.gateway.write_config({**cache.gateway.config, "models": with_one})
        cache.gateway.wait_for(lambda: said(cache.ask(new_text())) == ("miss", "off"))
        assert cache.gateway.log_lines("config_needs_restart")[0]["settings"] == ["models.*.cache"]
        assert cache.ask(new_text(), control="only-if-cached").status == 504
