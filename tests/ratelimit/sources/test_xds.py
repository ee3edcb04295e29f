"""Rules from a management server: what is taken and answered, and what happens when it goes away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from ratelimit import settings
from ratelimit.http import rlconfig
from ratelimit.settings import RuleFile
from ratelimit.sources.rls_conf_pb2 import DAY, WEEK, RateLimitConfig, RateLimitDescriptor
from ratelimit.sources.xds import TYPE_URL, ClientTls, ManagementServer, XdsSource, rule_files
from sidecar.errors import ConfigError
from tests.ratelimit.sources.recorder import running
from tests.sidecar.certificates import Authority


def config(domain: str, amount: int = 1, name: str = "", **given: Any) -> RateLimitConfig:
    message = RateLimitConfig(name=name or domain, domain=domain)
    one = message.descriptors.add(key="k", **given)
    one.rate_limit.unit = DAY
    one.rate_limit.requests_per_unit = amount
    return message


def response(version: str, nonce: str, *configs: RateLimitConfig) -> Any:
    message = discovery_pb2.DiscoveryResponse(version_info=version, nonce=nonce, type_url=TYPE_URL)
    for one in configs:
        message.resources.add(type_url=TYPE_URL, value=one.SerializeToString())
    return message


@dataclass
class Control:
    """A management server that the test plays: what it heard, and what it says."""

    heard: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    says: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""

    async def request(self) -> Any:
        async with asyncio.timeout(10):
            return await self.heard.get()

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        self.metadata.append(dict(context.invocation_metadata()))

        async def hear() -> None:
            async for request in requests:
                self.heard.put_nowait(request)

        hearing = asyncio.create_task(hear())
        try:
            while (message := await self.says.get()) is not None:
                yield message
        finally:
            hearing.cancel()

    def handler(self) -> grpc.GenericRpcHandler:
        method = grpc.stream_stream_rpc_method_handler(
            self._stream,
            discovery_pb2.DiscoveryRequest.FromString,
            discovery_pb2.DiscoveryResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            "envoy.service.discovery.v3.AggregatedDiscoveryService", {"StreamAggregatedResources": method}
        )


@asynccontextmanager
async def control(listen: str = "127.0.0.1:0", credentials: Any = None) -> AsyncIterator[Control]:
    one = Control()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((one.handler(),))
    port = server.add_secure_port(listen, credentials) if credentials else server.add_insecure_port(listen)
    one.address = f"localhost:{port}" if credentials else f"127.0.0.1:{port}"
    await server.start()
    try:
        yield one
    finally:
        await server.stop(None)


class Pauses:
    """Pauses that are over as soon as the test lets them."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.over = asyncio.Event()
        self.over.set()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self.over.wait()
        await asyncio.sleep(0.01)


def source(address: str, pauses: Callable[[float], Any] | None = None, **given: Any) -> XdsSource:
    server = ManagementServer(address, "node-1", {"a": "b"}, {"Authorization": "token"}, spread=0.0, **given)
    return XdsSource(server, pause=pauses or Pauses())


async def test_what_is_taken_is_acknowledged_and_what_is_not_is_refused() -> None:
    async with control() as server, running(source(server.address)) as came:
        first = await server.request()
        assert (first.type_url, first.node.id, dict(first.node.metadata)) == (TYPE_URL, "node-1", {"a": "b"})
        assert (first.version_info, first.response_nonce, list(first.resource_names)) == ("", "", [])
        assert server.metadata[0]["authorization"] == "token"
        server.says.put_nowait(response("v1", "n1", config("mesh", 5), config("other", 6)))
        assert await came.rules() == ["mesh.k: 5", "other.k: 6"]
        ack = await server.request()
        assert (ack.version_info, ack.response_nonce, ack.HasField("error_detail")) == ("v1", "n1", False)
        server.says.put_nowait(response("v2", "n2", config("mesh", 5), config("mesh", 5, "twice")))
        assert await came.refused() == "twice: duplicate domain 'mesh' in config file"
        nack = await server.request()
        assert (nack.version_info, nack.response_nonce) == ("v1", "n2")
        assert nack.error_detail.message == "twice: duplicate domain 'mesh' in config file"
        assert nack.error_detail.code == 3
        server.says.put_nowait(response("v3", "n3"))
        assert await came.rules() == []
        assert (await server.request()).version_info == "v3"


async def test_resources_that_are_none() -> None:
    async with control() as server, running(source(server.address)) as came:
        await server.request()
        broken = response("v1", "n1")
        broken.resources.add(type_url=TYPE_URL, value=b"\xff\xff\xff")
        server.says.put_nowait(broken)
        assert "cannot be parsed" in await came.refused()
        assert (await server.request()).error_detail.message
        other = response("v2", "n2")
        other.resources.add(type_url="type.googleapis.com/other", value=b"")
        server.says.put_nowait(other)
        assert "is of type type.googleapis.com/other" in await came.refused()
        assert (await server.request()).version_info == ""


async def test_a_stream_that_ends_is_opened_again() -> None:
    pauses = Pauses()
    async with control() as server, running(source(server.address, pauses, backoff=7.0)) as came:
        await server.request()
        server.says.put_nowait(response("v1", "n1", config("mesh")))
        assert await came.rules() == ["mesh.k: 1"]
        await server.request()
        server.says.put_nowait(None)
        again = await server.request()
        assert (again.version_info, again.response_nonce, again.node.id) == ("v1", "", "node-1")
        assert pauses.asked == [7.0]
        assert came.nothing()  # nothing was taken away


async def test_a_server_that_comes_later_and_goes() -> None:
    pauses = Pauses()
    pauses.over.clear()
    async with control() as server:
        address = server.address
    async with running(source(address, pauses, retry=1.0, max_backoff=3.0)) as came:
        async with asyncio.timeout(10):
            while not pauses.asked:
                await asyncio.sleep(0.005)
        pauses.over.set()
        async with asyncio.timeout(20):
            while len(pauses.asked) < 4:
                await asyncio.sleep(0.005)
        assert pauses.asked[:4] == [1.0, 2.0, 3.0, 3.0]
        async with control(address) as server:
            await server.request()
            server.says.put_nowait(response("v1", "n1", config("mesh")))
            assert await came.rules() == ["mesh.k: 1"]


async def test_tls(tmp_path: Path) -> None:
    authority, clients = Authority(), Authority("clients")
    certificate, key = authority.sign("control.test")
    own, own_key = clients.sign("us")
    for name, content in (("ca", authority.pem), ("cert", own), ("key", own_key)):
        (tmp_path / name).write_bytes(content)
    credentials = grpc.ssl_server_credentials([(key, certificate)], clients.pem, require_client_auth=True)
    tls = ClientTls(str(tmp_path / "cert"), str(tmp_path / "key"), str(tmp_path / "ca"), "control.test")
    async with control("localhost:0", credentials) as server, running(source(server.address, tls=tls)) as came:
        await server.request()
        server.says.put_nowait(response("v1", "n1", config("mesh")))
        assert await came.rules() == ["mesh.k: 1"]


async def test_tls_files_that_cannot_be_read(tmp_path: Path) -> None:
    pauses = Pauses()
    async with running(source("127.0.0.1:1", pauses, tls=ClientTls(authority=str(tmp_path / "no")))) as came:
        async with asyncio.timeout(10):
            while len(pauses.asked) < 2:
                await asyncio.sleep(0.005)
        assert came.nothing()


def test_pauses_are_spread() -> None:
    waits: list[float] = []

    class Enough(Exception):
        pass

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        raise Enough

    async def once(chance: float) -> None:
        server = ManagementServer("127.0.0.1:1", retry=2.0, spread=0.5)
        with pytest.raises(Enough):
            await XdsSource(server, pause=pause, chance=lambda: chance).run(lambda _: None, lambda _: None)

    for chance in (0.0, 0.5, 1.0):
        asyncio.run(once(chance))
    assert waits == [1.0, 2.0, 3.0]


def packed(message: RateLimitConfig) -> Any:
    return response("", "", message).resources


def test_every_field_becomes_what_the_yaml_says() -> None:
    message = RateLimitConfig(name="n", domain="mesh")
    one = message.descriptors.add(key="k", value="v", shadow_mode=True, detailed_metric=True)
    one.rate_limit.unit = WEEK
    one.rate_limit.requests_per_unit = 9
    one.rate_limit.name = "nine"
    one.rate_limit.replaces.add(name="ten")
    below = one.descriptors.add(key="free")
    below.rate_limit.unlimited = True
    message.descriptors.append(RateLimitDescriptor(key="nothing"))
    (file,) = rule_files(packed(message))
    yaml = """
    domain: mesh
    descriptors:
      - key: k
        value: v
        shadow_mode: true
        detailed_metric: true
        rate_limit: {unit: week, requests_per_unit: 9, name: nine, replaces: [{name: ten}]}
        descriptors:
          - key: free
            rate_limit: {unlimited: true}
      - key: nothing
    """
    assert settings.build([file]) == settings.build([RuleFile("n", yaml)])
    assert len(rlconfig.lines(settings.build([file]))) == 2


def test_a_unit_that_is_not_known() -> None:
    message = config("mesh", name="n")
    for unit, says in ((0, "UNKNOWN"), (99, "99")):
        message.descriptors[0].rate_limit.unit = unit  # type: ignore[assignment]
        with pytest.raises(ConfigError, match=f"^n: invalid rate limit unit '{says}'$"):
            settings.build(rule_files(packed(message)))


def test_a_unit_without_a_limit() -> None:
    message = config("mesh", name="n")
    message.descriptors[0].rate_limit.unlimited = True
    with pytest.raises(ConfigError, match=r"^n: should not specify rate limit unit when unlimited$"):
        settings.build(rule_files(packed(message)))
