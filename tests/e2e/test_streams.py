"""Streams pass through Envoy chunk by chunk: no Python on the way, and Python's death does not cut them."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import House
from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer


def open_stream(address: str, fake: str, **fields: object) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(address, timeout=20)
    body = json.dumps(chat("gpt-4o", stream=True, **fields))
    connection.request("POST", "/v1/chat/completions", body, {"authorization": "Bearer sk-team-a", "x-fake": fake})
    return connection.getresponse()


def lines(response: http.client.HTTPResponse) -> Iterator[tuple[float, bytes]]:
    """Every `data:` line with the time of its arrival."""
    while line := response.readline():
        if line.startswith(b"data:"):
            yield time.monotonic(), line


def test_a_200_chunk_stream_takes_two_messages(house: House) -> None:
    before = house.gateway.metric("headgate_extproc_messages_total")
    answer = post(
        house.gateway.listen, chat("gpt-4o", stream=True), headers=(("x-fake", "chunks=200,chunk_delay_ms=1"),)
    )
    assert answer.body.count(b"data: ") == 203  # role, 200 words, finish, [DONE]
    assert house.gateway.metric("headgate_extproc_messages_total") - before == 2


@pytest.mark.parametrize("asked", [False, True])
def test_chunks_arrive_when_they_are_sent(house: House, asked: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asked else {}
    response = open_stream(house.gateway.listen, "chunks=10,chunk_delay_ms=100", **options)
    arrivals = [at for at, _ in lines(response)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
    # Held back until the end, all gaps but one would be near 0; the median shows the pace of the provider.
    assert 0.05 < sorted(gaps)[len(gaps) // 2] < 0.2


def test_a_client_that_leaves_ends_the_request_upstream(house: House) -> None:
    response = open_stream(house.gateway.listen, "chunks=500,chunk_delay_ms=20")
    next(lines(response))
    response.close()
    house.gateway.wait_for(lambda: len(house.openai.requests) == 1 and house.openai.requests[0].disconnected)
    assert house.openai.requests[0].chunks_sent < 200


@pytest.fixture
def own_gateway() -> Iterator[Gateway]:
    with ProviderThread() as provider:
        config = {
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"requests": "1000/year", "tokens": "1000000/year"})],
            "drain_timeout": 20,
        }
        with Gateway(config) as gateway:
            yield gateway


def test_a_stream_survives_the_sidecars_death_and_the_sidecar_comes_back(own_gateway: Gateway) -> None:
    response = open_stream(own_gateway.listen, "chunks=30,chunk_delay_ms=100")
    arriving = lines(response)
    next(arriving)
    own_gateway.child("sidecar").kill()
    rest = [line for _, line in arriving]
    assert rest[-1].strip() == b"data: [DONE]"
    assert len(rest) == 32
    own_gateway.wait_for(lambda: post(own_gateway.listen, chat()).status == 200, 15)
    assert own_gateway.log_lines("child_died")[0]["child"] == "sidecar"


def test_while_the_sidecar_is_dead_nothing_goes_through(own_gateway: Gateway) -> None:
    sidecar = own_gateway.child("sidecar")
    sidecar.suspend()
    answer = post(own_gateway.listen, chat(), timeout=30)
    sidecar.kill()
    assert answer.status == 504
    assert answer.error["code"] == "gateway_timeout"


def test_envoy_is_started_again_when_it_dies(own_gateway: Gateway) -> None:
    own_gateway.child("envoy").kill()

    def serves() -> bool:
        try:
            return post(own_gateway.listen, chat()).status == 200
        except (OSError, ValueError):
            return False

    own_gateway.wait_for(serves, 15)


def test_a_stream_is_finished_before_the_gateway_stops(own_gateway: Gateway) -> None:
    response = open_stream(own_gateway.listen, "chunks=50,chunk_delay_ms=100")
    arriving = lines(response)
    next(arriving)
    assert own_gateway.get("/readyz")[0] == 200
    stopping = threading.Thread(target=own_gateway.stop)
    stopping.start()
    own_gateway.wait_for(lambda: own_gateway.get("/readyz")[0] == 503)
    rest = [line for _, line in arriving]
    assert rest[-1].strip() == b"data: [DONE]"
    assert len(rest) == 52
    stopping.join(20)
    assert own_gateway.process is not None
    assert own_gateway.process.returncode == 0


@pytest.mark.parametrize(
    "limits", [{}, {"settle": "call"}, {"enforce": "in_process"}], ids=["by the log", "by a call", "in process"]
)
def test_what_a_stream_used_is_known_when_the_gateway_stops_right_behind_it(
    own_redis: RedisServer, limits: dict[str, str]
) -> None:
    """Its end is in Envoy's log, and no further, in the moment in which nobody is served any more."""
    with ProviderThread() as provider:
        config = {
            "store": own_redis.url,
            "limits": limits,
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a", limits={"tokens": "1000000/year"})],
            "drain_timeout": 20,
        }
        with Gateway(config) as gateway:
            responses = [open_stream(gateway.listen, "chunks=15,chunk_delay_ms=100,usage_tokens=555") for _ in range(3)]
            arriving = [lines(response) for response in responses]
            for one in arriving:
                next(one)
            stopping = threading.Thread(target=gateway.stop)
            stopping.start()
            assert [[line for _, line in one][-1].strip() for one in arriving] == [b"data: [DONE]"] * 3
            stopping.join(20)
            assert [line["tokens"] for line in gateway.log_lines("request")] == [555] * 3
        with Gateway(config) as gateway:
            body = chat(max_tokens=10)
            left = int(post(gateway.listen, body).header("x-ratelimit-remaining-tokens") or 0)
            assert left == 1_000_000 - 3 * 555 - (-(-len(json.dumps(body).encode()) // 4) + 10)


def test_nothing_is_left_behind(own_gateway: Gateway) -> None:
    children = [own_gateway.child("envoy"), own_gateway.child("sidecar")]
    assert own_gateway.stop() == 0
    assert not [child for child in children if child.is_running()]
