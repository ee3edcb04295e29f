"""What nobody should send, over real gRPC: an error or an answer, and the service goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest

from ratelimit.limiter import Limiter
from ratelimit.server import SERVICE, rate_limit_service
from ratelimit.settings import RuleFile, build
from ratelimit.storage import Store
from ratelimit.wire import RateLimitRequest, RateLimitResponse
from sidecar.server import GrpcServer
from tests.ratelimit.factories import Clock

RULES = "domain: {domain}\ndescriptors: [{{key: k, rate_limit: {{unit: minute, requests_per_unit: 100}}}}]"
OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT


class Asked:
    """A service, and one call to it."""

    def __init__(self, channel: grpc.aio.Channel, domain: str) -> None:
        self.domain = domain
        self._call = channel.unary_unary(
            f"/{SERVICE}/ShouldRateLimit",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=RateLimitResponse.FromString,
        )

    async def __call__(self, message: Any) -> Any:
        return await self._call(message, timeout=30)

    def message(self, *values: str, **fields: Any) -> Any:
        message = RateLimitRequest(domain=self.domain)
        for value in values:
            descriptor = message.descriptors.add()
            descriptor.entries.add(key="k", value=value)
            for name, given in fields.items():
                if name == "hits":
                    descriptor.hits_addend.value = given
                elif name == "limit":
                    descriptor.limit.requests_per_unit, descriptor.limit.unit = given
                else:
                    setattr(descriptor, name, given)
        return message


@pytest.fixture(params=["native", "grpcio"])
async def asked(
    request: pytest.FixtureRequest, store: Store, clock: Clock, domain: str, tmp_path: Path
) -> AsyncIterator[Asked]:
    engine: Literal["native", "grpcio"] = request.param
    rules = build([RuleFile("f", RULES.format(domain=domain))])
    service = rate_limit_service(Limiter(store, clock), lambda: rules)
    server = GrpcServer([service], listen=f"unix://{tmp_path}/s", engine=engine)
    await server.start()
    async with grpc.aio.insecure_channel(server.address) as channel:
        one = Asked(channel, domain)
        yield one
        assert (await one(one.message("after"))).overall_code == OK  # the service goes on
    await server.stop(0)


ANSWERED: list[tuple[str, Callable[[Asked], Any], int, int]] = [
    ("a thousand descriptors", lambda one: one.message(*(f"v{n}" for n in range(1_000))), OK, 1_000),
    ("one descriptor a thousand times", lambda one: one.message(*["same"] * 1_000), OVER, 1_000),
    ("a value of 64 KB", lambda one: one.message("x" * 65_536), OK, 1),
    ("control characters", lambda one: one.message("".join(map(chr, range(1, 32))) + "\x7f\r\n*{}%"), OK, 1),
    ("text of any language", lambda one: one.message("日本語 \N{GRINNING FACE} \u202e"), OK, 1),
    ("an empty value", lambda one: one.message(""), OK, 1),
    ("more hits than fit", lambda one: one.message("hits", hits=2**64 - 1), OVER, 1),
    ("2^32 - 1 hits", lambda one: one.message("hits", hits=2**32 - 1), OVER, 1),
    ("negative hits of nothing", lambda one: one.message("never", hits=2**63, is_negative_hits=True), OK, 1),
    ("an override of 0", lambda one: one.message("o", limit=(0, 1)), OVER, 1),
    ("an override of 2^32 - 1 a year", lambda one: one.message("o", limit=(2**32 - 1, 6)), OK, 1),
    ("no entries", lambda one: _without_entries(one), OK, 1),
    ("entries without end", lambda one: _deep(one), OK, 1),
]


def _without_entries(one: Asked) -> Any:
    message = RateLimitRequest(domain=one.domain)
    message.descriptors.add()
    return message


def _deep(one: Asked) -> Any:
    message = one.message("x")
    for number in range(10_000):
        message.descriptors[0].entries.add(key="k", value=str(number))
    return message


@pytest.mark.parametrize(
    ("make", "code", "statuses"), [case[1:] for case in ANSWERED], ids=[case[0] for case in ANSWERED]
)
async def test_is_answered(asked: Asked, make: Callable[[Asked], Any], code: int, statuses: int) -> None:
    reply = await asked(make(asked))
    assert (reply.overall_code, len(reply.statuses)) == (code, statuses)


REFUSED: list[tuple[str, Callable[[Asked], Any], grpc.StatusCode, str]] = [
    ("no domain", lambda one: RateLimitRequest(), grpc.StatusCode.UNKNOWN, "rate limit domain must not be empty"),
    (
        "no descriptors",
        lambda one: RateLimitRequest(domain=one.domain),
        grpc.StatusCode.UNKNOWN,
        "rate limit descriptor list must not be empty",
    ),
    ("an override without a unit", lambda one: one.message("o", limit=(5, 0)), grpc.StatusCode.UNKNOWN, "has no unit"),
    ("an override with unit 99", lambda one: one.message("o", limit=(5, 99)), grpc.StatusCode.UNKNOWN, "has no unit"),
    ("no message at all", lambda one: b"\xff\xff\xff", grpc.StatusCode.INVALID_ARGUMENT, ""),
    ("5 MB", lambda one: one.message("x" * 5_000_000), grpc.StatusCode.RESOURCE_EXHAUSTED, ""),
]


@pytest.mark.parametrize(("make", "code", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_is_refused(asked: Asked, make: Callable[[Asked], Any], code: grpc.StatusCode, words: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked(make(asked))
    assert caught.value.code() is code
    assert words in (caught.value.details() or "")
