"""Every case of the files beside this one, over real gRPC, on every engine and every store.

`python -m pytest tests/ratelimit/conformance -k "cluster-native and headers"` runs those of one kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from ratelimit.options import Options
from ratelimit.settings import build
from sidecar.errors import ConfigError
from sidecar.server import Engine
from tests.ratelimit.conformance.stage import Performance, Seat, Shelf, Stage
from tests.ratelimit.conformance.suite import Case, Step, files, load
from tests.redis_server import RedisCluster, RedisServer, Sentinels, until

ENGINES: tuple[Engine, ...] = ("native", "grpcio")
CASES = load()
RUNNING = [case for case in CASES if case.steps]
REFUSED = [case for case in CASES if case.error]
# Promoted are the sentinels after a failover: not every case again.
STORES = {"memory": RUNNING, "redis": RUNNING, "cluster": RUNNING, "sentinel": RUNNING, "promoted": RUNNING[::4]}
ALL = [
    pytest.param(store, engine, case, id=f"{store}-{engine}-{case.id}")
    for store, cases in STORES.items()
    for engine in ENGINES
    for case in cases
]

RULES = "domain: d\ndescriptors: [{key: k, rate_limit: {unit: day, requests_per_unit: 9}}]"
COUNTS = Step(ask=["k=v"], gives="OK", each=["OK 8 of 9/day, 86400s"], stored={"d_k_v_1702944000": 1})
COUNTING = Case("failover", "counts", "ours", files(RULES), Options(), (COUNTS,))


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    with Stage() as opened:
        yield opened


@pytest.fixture(scope="session")
def cluster(stage: Stage) -> Iterator[RedisCluster]:
    (stage.folder / "cluster").mkdir()
    with RedisCluster(stage.folder / "cluster") as started:
        yield started


@pytest.fixture(scope="session")
def sentinels(stage: Stage) -> Iterator[Sentinels]:
    (stage.folder / "sentinel").mkdir()
    with Sentinels(stage.folder / "sentinel") as started:
        yield started


@pytest.fixture(scope="session")
def promoted(sentinels: Sentinels) -> Sentinels:
    """The sentinels, after the replica has become the master."""
    before = sentinels.master()
    sentinels.fail_over()
    until(lambda: sentinels.master() != before, "the replica is the master")
    until(lambda: sentinels.roles()[0].client().role()[0] == b"master", "it knows it")  # type: ignore[no-untyped-call]
    return sentinels


@pytest.fixture
def seat(request: pytest.FixtureRequest, stage: Stage, store: str, engine: Engine) -> Seat:
    """The server of that engine over that store."""

    def shelf() -> Shelf:
        if store == "memory":
            return Shelf(None, None, None, None)
        single: RedisServer = request.getfixturevalue("redis_server")
        nodes: Callable[[], list[Redis]]
        if store == "redis":
            clients = [single.client()]
            url, nodes = single.url, lambda: clients
        elif store == "cluster":
            sharing: RedisCluster = request.getfixturevalue("cluster")
            clients = [node.client() for node in sharing.nodes]
            url, nodes = sharing.url, lambda: clients
        else:
            watched: Sentinels = request.getfixturevalue("sentinels")
            by_port = {server.port: server.client() for server in watched.servers}
            url, nodes = watched.url, lambda: [by_port[watched.master()]]
        second = Redis(unix_socket_path=str(single.socket), db=1)
        return Shelf(stage.open(url), stage.open(f"{single.url}?db=1"), nodes, lambda: [second])

    name = "sentinel" if store == "promoted" else store
    found = stage.seat(name, shelf, engine)
    if store == "promoted":
        request.getfixturevalue("promoted")
        _settle(found)
    return found


def _settle(seat: Seat) -> None:
    """Wait until the new master counts: until the old one says that it is none, it is not left."""
    deadline = time.monotonic() + 15
    while True:
        try:
            return Performance(COUNTING, seat).play()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


@pytest.mark.parametrize(("store", "engine", "case"), ALL)
def test_conforms(case: Case, seat: Seat) -> None:
    Performance(case, seat).play()


@pytest.mark.parametrize("case", REFUSED, ids=[case.id for case in REFUSED])
def test_refuses(case: Case) -> None:
    with pytest.raises(ConfigError) as caught:
        build(case.config, merge=case.merge)
    assert str(caught.value) == case.error


def test_there_are_cases_enough() -> None:
    assert len(CASES) >= 150
