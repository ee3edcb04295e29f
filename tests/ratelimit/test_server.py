"""The service as Envoy meets it: messages in, messages out."""

from __future__ import annotations

import inspect

import pytest
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse
from google.protobuf.wrappers_pb2 import UInt64Value

from ratelimit.limiter import Limiter
from ratelimit.messages import reservation_field
from ratelimit.rules import RuleSet
from ratelimit.server import Presenter, plain, rate_limit_service
from ratelimit.storage import MemoryStore, RedisStore, Store, open_store
from sidecar.errors import RpcError, StatusCode
from sidecar.rpc import CallContext, Service, UnaryMethod
from tests.ratelimit.factories import NOON, Clock, tenant_rules
from tests.redis_server import RedisServer

OK, OVER = RateLimitResponse.OK, RateLimitResponse.OVER_LIMIT
CONTEXT = CallContext("/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit")


def descriptor(*entries: tuple[str, str], hits: int | None = None) -> RateLimitDescriptor:
    message = RateLimitDescriptor(
        entries=[RateLimitDescriptor.Entry(key=key, value=value) for key, value in entries],
    )
    if hits is not None:
        message.hits_addend.CopyFrom(UInt64Value(value=hits))
    return message


def tokens(hits: int, *more: tuple[str, str]) -> RateLimitDescriptor:
    return descriptor(("key", "team-a"), ("limit", "tokens"), *more, hits=hits)


def service(
    store: Store, rules: RuleSet | None = None, presenter: Presenter = plain, clock: Clock | None = None
) -> Service:
    return rate_limit_service(Limiter(store, clock or Clock()), lambda: rules, presenter)


async def call(of: Service, *descriptors: RateLimitDescriptor, domain: str = "d", addend: int = 0) -> RateLimitResponse:
    method = of.methods[0]
    assert isinstance(method, UnaryMethod)
    sent = RateLimitRequest(domain=domain, descriptors=descriptors, hits_addend=addend)
    # Through bytes, as on the wire.
    reply = method.handle(method.request.FromString(sent.SerializeToString()), CONTEXT)
    answered = await reply if inspect.isawaitable(reply) else reply
    return RateLimitResponse.FromString(answered.SerializeToString())


def test_is_envoys_service() -> None:
    offered = service(MemoryStore())
    assert offered.name == "envoy.service.ratelimit.v3.RateLimitService"
    assert [method.name for method in offered.methods] == ["ShouldRateLimit"]


async def test_reserves_and_settles_by_what_it_handed_out(store: Store, domain: str) -> None:
    offered = service(store, tenant_rules(domain))
    first = await call(offered, descriptor(("key", "team-a"), ("limit", "requests")), tokens(400), domain=domain)
    assert first.overall_code == OK
    metadata = dict(first.dynamic_metadata.items())
    assert metadata == {"reservation.requests": f"1@{NOON}", "reservation.tokens": f"400@{NOON}"}
    settlement = tokens(150, ("settle", metadata[reservation_field("tokens")]))
    settled = await call(offered, settlement, domain=domain)
    assert settled.overall_code == OK
    assert not settled.HasField("dynamic_metadata")
    assert (await call(offered, tokens(0), domain=domain)).statuses[0].limit_remaining == 850


@pytest.mark.parametrize(("own", "addend", "remaining"), [(None, 0, 999), (None, 9, 991), (5, 9, 995), (0, 9, 1000)])
async def test_reads_hits_as_envoy_means_them(own: int | None, addend: int, remaining: int) -> None:
    offered = service(MemoryStore(), tenant_rules("d"))
    asked = descriptor(("key", "team-a"), ("limit", "tokens"), hits=own)
    assert (await call(offered, asked, addend=addend)).statuses[0].limit_remaining == remaining


async def test_absurd_numbers_are_denied_or_charged_but_never_crash(store: Store, domain: str) -> None:
    offered = service(store, tenant_rules(domain))
    assert (await call(offered, tokens(2**64 - 1), domain=domain)).overall_code == OVER
    settle = tokens(2**64 - 1, ("settle", f"{2**64}@{2**63}"))
    assert (await call(offered, settle, domain=domain)).overall_code == OK
    reply = await call(offered, descriptor(("ip", "x")), domain=domain, addend=2**32 - 1)
    assert (reply.overall_code, reply.statuses[0].limit_remaining) == (OVER, 0)


async def test_shows_nothing_of_its_own_accord() -> None:
    denied = await call(service(MemoryStore(), tenant_rules("d")), tokens(1001))
    assert denied.overall_code == OVER
    assert not denied.response_headers_to_add
    assert denied.raw_body == b""


@pytest.mark.parametrize(
    ("domain", "descriptors", "rules", "text"),
    [
        ("", [tokens(1)], tenant_rules("d"), "rate limit domain must not be empty"),
        ("d", [], tenant_rules("d"), "rate limit descriptor list must not be empty"),
        ("d", [tokens(1)], None, "no rate limit configuration loaded"),
    ],
)
async def test_a_question_without_sense_is_unknown(
    domain: str, descriptors: list[RateLimitDescriptor], rules: RuleSet | None, text: str
) -> None:
    with pytest.raises(RpcError) as caught:
        await call(service(MemoryStore(), rules), *descriptors, domain=domain)
    assert (caught.value.code, caught.value.message) == (StatusCode.UNKNOWN, text)


async def test_a_redis_that_is_gone_fails_the_call(own_redis: RedisServer) -> None:
    opened = open_store(own_redis.url)
    assert isinstance(opened, RedisStore)
    own_redis.kill()
    with pytest.raises(RpcError) as caught:
        await call(service(opened, tenant_rules("d")), tokens(1))
    assert caught.value.code is StatusCode.UNKNOWN
    await opened.close()
