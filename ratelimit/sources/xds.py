"""Rules from an xDS management server, over the aggregated discovery service (ADS), state of the world.

    we: type, node -> they: resources, version, nonce -> we: version, nonce (ACK)
                                                      or the version before, nonce, error_detail (NACK) -> ...

Each response holds every `RateLimitConfig` there is, and is taken whole or not at all. When the stream ends, what was
taken last stays in force and the stream is opened again, after a pause that grows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import DecodeError

from ratelimit import settings
from ratelimit.rules import RuleSet
from ratelimit.settings import RuleFile
from ratelimit.sources import Refuse, Take
from ratelimit.sources.loading import loaded
from ratelimit.sources.rls_conf_pb2 import RateLimitConfig, RateLimitDescriptor, RateLimitPolicy, RateLimitUnit
from sidecar.errors import ConfigError, Problem

_log = structlog.get_logger("xds")

TYPE_URL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"
_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_DEFAULT_MESSAGE_BYTES = 4 * 1024 * 1024
_KEEPALIVE_MS = 300_000  # what servers bear without asking; a server that has gone without a word is noticed
_INVALID_ARGUMENT = 3


@dataclass(frozen=True, slots=True)
class ClientTls:
    """TLS to the management server. Empty paths: the system's authorities, no certificate of our own.

    `server_name` is what the server's certificate must be for, when not the name that was dialled.
    """

    certificate: str = ""
    key: str = ""
    authority: str = ""
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class ManagementServer:
    """Where rules come from, and who we say we are. Times are seconds.

    The pause after a stream that gave something is `backoff`. After one that gave nothing, and a server that could not
    be reached, it is `retry`, doubled every time and at most `max_backoff`. `spread` of it is left to chance, 0 to 1.
    """

    address: str
    node: str = "default"
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a token
    tls: ClientTls | None = None
    retry: float = 3.0
    backoff: float = 10.0
    max_backoff: float = 60.0
    spread: float = 0.5
    max_message_bytes: int = 0  # 0: gRPC's default
    merge: bool = False


def rule_files(resources: Iterable[Any]) -> list[RuleFile]:
    """The resources of a response as rule files. Raises `ConfigError` for one that is none."""
    files: list[RuleFile] = []
    for resource in resources:
        message = RateLimitConfig()
        if resource.type_url != TYPE_URL:
            raise ConfigError([Problem("xds", "", f"a resource is of type {resource.type_url[:200]}", TYPE_URL)])
        try:
            message.ParseFromString(resource.value)
        except DecodeError as error:
            raise ConfigError([Problem("xds", "", "a resource cannot be parsed as RateLimitConfig")]) from error
        content = {"domain": message.domain, "descriptors": [_descriptor(one) for one in message.descriptors]}
        files.append(RuleFile(message.name, content))
    return files


def _descriptor(message: RateLimitDescriptor) -> dict[str, Any]:
    """A descriptor as the YAML has it. What the message leaves at its default is left out."""
    flags = {"shadow_mode": message.shadow_mode, "detailed_metric": message.detailed_metric}
    return {
        "key": message.key,
        **({"value": message.value} if message.value else {}),
        **({"rate_limit": _policy(message.rate_limit)} if message.HasField("rate_limit") else {}),
        **{name: "true" for name, given in flags.items() if given},
        **({"descriptors": [_descriptor(one) for one in message.descriptors]} if message.descriptors else {}),
    }


def _policy(message: RateLimitPolicy) -> dict[str, Any]:
    known = message.unit in RateLimitUnit.values()
    unit = RateLimitUnit.Name(message.unit) if known else str(int(message.unit))
    if message.unlimited and message.unit == RateLimitUnit.UNKNOWN:
        unit = ""
    return {
        **({"unit": unit} if unit else {}),
        **({"requests_per_unit": str(message.requests_per_unit)} if not message.unlimited else {"unlimited": "true"}),
        **({"name": message.name} if message.name else {}),
        **({"replaces": [{"name": one.name} for one in message.replaces]} if message.replaces else {}),
    }


class XdsSource:
    """Follows a management server.

    `pause` waits so many seconds, and `chance` gives a number from 0 to 1; both are there for tests.
    """

    def __init__(
        self,
        server: ManagementServer,
        *,
        pause: Callable[[float], Any] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._server = server
        self._pause = pause
        self._chance = chance
        self._version = ""  # of what was taken last

    def reload(self) -> None:
        """Nothing: the server says when there is something new."""

    async def run(self, take: Take, refuse: Refuse) -> None:
        """See `Source`."""
        server, failures = self._server, 0
        while True:
            heard = False
            try:
                async for _ in self._follow(take, refuse):
                    heard = True
                reason = "the stream has ended"
            except grpc.aio.AioRpcError as error:
                reason = f"{error.code().name}: {error.details()}"
            except (ConfigError, OSError, ValueError, grpc.aio.UsageError) as error:
                reason = str(error) or type(error).__name__
            failures = 0 if heard else failures + 1
            wait = server.backoff if heard else min(server.retry * 2 ** min(failures - 1, 16), server.max_backoff)
            wait *= 1 - server.spread + 2 * server.spread * self._chance()
            _log.warning("xds_lost", server=server.address, reason=reason[:300], again_in=round(wait, 3))
            await self._pause(wait)

    async def _follow(self, take: Take, refuse: Refuse) -> AsyncIterator[None]:
        """One stream, to its end; yields after every response."""
        async with _channel(self._server) as channel:
            call = channel.stream_stream(
                _METHOD,
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )(metadata=[(name.lower(), value) for name, value in self._server.headers.items()])
            await call.write(self._request())
            async for response in call:
                await call.write(await self._answer(response, take, refuse))
                yield

    async def _answer(self, response: Any, take: Take, refuse: Refuse) -> Any:
        """Take or refuse a response: the ACK or NACK."""
        answer = self._request(response.nonce)
        try:
            rules = await loaded(partial(self._build, response.resources))
        except ConfigError as error:
            refuse(error)
            answer.error_detail.code = _INVALID_ARGUMENT
            answer.error_detail.message = str(error)
        else:
            take(rules)
            answer.version_info = self._version = response.version_info
        return answer

    def _request(self, nonce: str = "") -> Any:
        """What asks for rules, and says which ones we have."""
        request = discovery_pb2.DiscoveryRequest(type_url=TYPE_URL, version_info=self._version, response_nonce=nonce)
        request.node.id = self._server.node
        request.node.metadata.update(dict(self._server.metadata))
        return request

    def _build(self, resources: Iterable[Any]) -> RuleSet:
        return settings.build(rule_files(resources), merge=self._server.merge)


def _channel(server: ManagementServer) -> grpc.aio.Channel:
    """A channel of its own for every attempt: nothing of the last one is left. Raises `ConfigError`."""
    options: list[tuple[str, Any]] = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.max_receive_message_length", server.max_message_bytes or _DEFAULT_MESSAGE_BYTES),
    ]
    if server.tls is None:
        return grpc.aio.insecure_channel(server.address, options=options)
    if server.tls.server_name:
        options.append(("grpc.ssl_target_name_override", server.tls.server_name))
    credentials = grpc.ssl_channel_credentials(
        _file(server.tls.authority), _file(server.tls.key), _file(server.tls.certificate)
    )
    return grpc.aio.secure_channel(server.address, credentials, options=options)


def _file(path: str) -> bytes | None:
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([Problem(path, "", f"cannot be read: {error.strerror}", "name a PEM file")]) from error
