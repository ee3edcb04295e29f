"""Several workers: an even split, exact limits, one admin port, and a death that no request notices."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread
from tests.redis_server import RedisServer

WORKERS = 3
PLACES = [("memory", "envoy"), ("redis", "envoy"), ("redis", "in_process")]


@pytest.fixture(scope="module", params=PLACES, ids="-".join)
def gateway(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Gateway]:
    store, enforce = request.param
    with ProviderThread() as provider:
        config = {
            "workers": WORKERS,
            "store": "memory://" if store == "memory" else f"{redis_server.url}?db={8 + PLACES.index(request.param)}",
            "limits": {"enforce": enforce},
            "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"gpt-4o": {"provider": "fake"}},
            "keys": [key_entry("team-a"), key_entry("twenty", limits={"requests": "20/year"})],
        }
        with Gateway(config) as running:
            yield running


def decided(gateway: Gateway) -> list[float]:
    return [gateway.metric("headgate_worker_decisions_total", worker=str(number)) for number in range(WORKERS)]


def workers(gateway: Gateway) -> list[psutil.Process]:
    found = [child for child in gateway.child("sidecar").children() if "--worker" in child.cmdline()]
    return sorted(found, key=lambda child: int(child.cmdline()[-1]))


def all_answer(gateway: Gateway) -> bool:
    return len(workers(gateway)) == WORKERS and "does not answer" not in gateway.get("/readyz")[1]


def test_envoy_splits_its_calls_evenly(gateway: Gateway) -> None:
    # The stream of Envoy's access log goes to one of them, too, and would take a turn while we count.
    assert post(gateway.listen, chat()).status == 200
    gateway.wait_for(lambda: gateway.metric("headgate_requests_total") > 0)
    before = decided(gateway)
    assert [post(gateway.listen, chat()).status for _ in range(30)] == [200] * 30
    assert [after - one for after, one in zip(decided(gateway), before, strict=True)] == [10, 10, 10]


def test_limits_stay_exact(gateway: Gateway) -> None:
    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(lambda _: post(gateway.listen, chat(), key="sk-twenty").status, range(60)))
    assert (statuses.count(200), statuses.count(429)) == (20, 40)


def test_the_admin_port_speaks_for_all_of_them(gateway: Gateway) -> None:
    status, body = gateway.get("/readyz")
    assert status == 200, body
    assert json.loads(body)["dependencies"]["envoy"] == "LIVE"
    shown = json.loads(gateway.get("/status")[1])
    assert [one["config"] for one in shown["workers"]] == [shown["config"]["hash"]] * WORKERS
    memory = [gateway.metric("headgate_worker_resident_memory_bytes", worker=str(n)) for n in range(WORKERS)]
    assert min(memory) > 1_000_000


@pytest.mark.parametrize("victim", range(WORKERS))
def test_a_worker_that_dies_is_not_noticed(gateway: Gateway, victim: int) -> None:
    workers(gateway)[victim].kill()
    assert [post(gateway.listen, chat()).status for _ in range(20)] == [200] * 20
    gateway.wait_for(lambda: all_answer(gateway))


def test_a_worker_that_hangs_is_started_anew(gateway: Gateway) -> None:
    hung = workers(gateway)[1]
    hung.send_signal(signal.SIGSTOP)
    gateway.wait_for(lambda: "worker 1" in gateway.get("/readyz")[1])
    assert gateway.get("/readyz")[0] == 200
    gateway.wait_for(lambda: all_answer(gateway) and workers(gateway)[1].pid != hung.pid, 20)
    assert gateway.log_lines("worker_hangs")
    assert [post(gateway.listen, chat()).status for _ in range(9)] == [200] * 9


def test_a_reload_reaches_every_worker(gateway: Gateway) -> None:
    old = json.loads(gateway.get("/status")[1])["config"]["hash"]
    gateway.write_config({**gateway.config, "keys": [*gateway.config["keys"], key_entry("late")]})
    gateway.wait_for(lambda: json.loads(gateway.get("/status")[1])["config"]["hash"] not in (old, ""))
    assert [post(gateway.listen, chat(), key="sk-late").status for _ in range(9)] == [200] * 9


def test_all_of_them_stop(gateway: Gateway) -> None:
    """The last of this module: it stops the gateway."""
    processes = [gateway.child("envoy"), gateway.child("sidecar"), *workers(gateway)]
    assert gateway.stop() == 0
    assert not [one for one in processes if one.is_running()]
