"""The quota service over real gRPC, on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import grpc
import pytest
from envoy.service.rate_limit_quota.v3 import rlqs_pb2

from ratelimit.operator import Operator
from ratelimit.quota.server import SERVICE, quota_service
from ratelimit.rules import RuleSet
from ratelimit.settings import RuleFile, build
from ratelimit.storage import MemoryStore
from ratelimit.storage.base import Count, Operation
from sidecar.errors import StoreError
from sidecar.server import GrpcServer
from tests.ratelimit.factories import Clock

RULES = build(
    [RuleFile("f", "domain: d\ndescriptors: [{key: user, rate_limit: {unit: minute, requests_per_unit: 100}}]")]
)


class House:
    """A quota service and Envoys that report to it."""

    def __init__(self, address: str, clock: Clock) -> None:
        self.channel = grpc.aio.insecure_channel(address)
        self.clock = clock

    def envoy(self) -> grpc.aio.StreamStreamCall:
        return self.channel.stream_stream(
            f"/{SERVICE}/StreamRateLimitQuotas",
            request_serializer=rlqs_pb2.RateLimitQuotaUsageReports.SerializeToString,
            response_deserializer=rlqs_pb2.RateLimitQuotaResponse.FromString,
        )()


class Fragile(MemoryStore):
    broken = False
    failed: asyncio.Event

    def apply(self, operations: Sequence[Operation], now: float) -> list[Count]:
        if self.broken:
            self.failed.set()
            raise StoreError("gone", transient=True)
        return super().apply(operations, now)


STORE = Fragile()
CURRENT: list[RuleSet | None] = [RULES]


@pytest.fixture(params=["native", "grpcio"])
async def house(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[House]:
    clock = Clock()
    engine: Literal["native", "grpcio"] = request.param
    STORE.__init__()  # type: ignore[misc]
    STORE.broken = False
    CURRENT[0] = RULES
    service = quota_service(Operator(STORE, clock), lambda: CURRENT[0], clock)
    server = GrpcServer([service], listen=f"unix://{tmp_path}/s", engine=engine)
    await server.start()
    made = House(server.address, clock)
    yield made
    await made.channel.close()
    await server.stop(0)


def report(
    user: str, allowed: int, denied: int = 0, seconds: int = 1, key: str = "user"
) -> rlqs_pb2.RateLimitQuotaUsageReports:
    message = rlqs_pb2.RateLimitQuotaUsageReports(domain="d")
    usage = message.bucket_quota_usages.add(num_requests_allowed=allowed, num_requests_denied=denied)
    usage.bucket_id.bucket[key] = user
    usage.time_elapsed.seconds = seconds
    return message


async def told(envoy: grpc.aio.StreamStreamCall, message: rlqs_pb2.RateLimitQuotaUsageReports) -> int | str:
    """The tokens of the only assignment, or its blanket rule."""
    await envoy.write(message)
    reply = await envoy.read()
    (action,) = reply.bucket_action
    strategy = action.quota_assignment_action.rate_limit_strategy
    if strategy.HasField("token_bucket"):
        return int(strategy.token_bucket.max_tokens)
    return "deny" if strategy.blanket_rule == 1 else "allow"


async def test_a_bucket_shrinks_as_it_is_used_and_is_denied_when_spent(house: House) -> None:
    envoy = house.envoy()
    assert await told(envoy, report("ann", 1)) == 99
    assert await told(envoy, report("ann", 40)) == 59
    assert await told(envoy, report("ann", 60)) == "deny"
    assert await told(envoy, report("bob", 0)) == 100
    house.clock.now += 60
    assert await told(envoy, report("ann", 0, denied=5)) == 100
    envoy.cancel()


async def test_two_envoys_share_by_what_they_are_asked_for(house: House) -> None:
    one, other = house.envoy(), house.envoy()
    assert await told(one, report("ann", 0, denied=8)) == 100
    assert await told(other, report("ann", 0, denied=2)) == 20
    assert await told(one, report("ann", 0, denied=8)) == 80
    other.cancel()
    one.cancel()


async def test_what_has_no_limit_is_allowed(house: House) -> None:
    envoy = house.envoy()
    assert await told(envoy, report("x", 5, key="other")) == "allow"
    envoy.cancel()


async def test_assignments_are_renewed_before_they_end_and_not_told_twice(house: House) -> None:
    envoy = house.envoy()
    assert await told(envoy, report("ann", 0)) == 100
    await envoy.write(report("ann", 0))  # nothing to tell
    house.clock.now += 31
    assert await told(envoy, report("ann", 0)) == 100
    envoy.cancel()


async def test_other_rules_are_told_at_the_next_report(house: House) -> None:
    envoy = house.envoy()
    assert await told(envoy, report("ann", 0)) == 100
    CURRENT[0] = build(
        [RuleFile("f", "domain: d\ndescriptors: [{key: user, rate_limit: {unit: minute, requests_per_unit: 98}}]")]
    )
    assert await told(envoy, report("ann", 0)) == 98
    envoy.cancel()


async def test_a_store_that_fails_leaves_in_force_what_was_told(house: House) -> None:
    envoy = house.envoy()
    assert await told(envoy, report("ann", 0)) == 100
    STORE.broken, STORE.failed = True, asyncio.Event()
    await envoy.write(report("ann", 50))
    await STORE.failed.wait()
    STORE.broken = False
    assert await told(envoy, report("bob", 0)) == 100
    envoy.cancel()


async def test_a_report_without_a_domain_or_without_rules_ends_the_stream(house: House) -> None:
    envoy = house.envoy()
    await envoy.write(rlqs_pb2.RateLimitQuotaUsageReports())
    assert await envoy.code() == grpc.StatusCode.INVALID_ARGUMENT
    CURRENT[0] = None
    envoy = house.envoy()
    await envoy.write(report("ann", 1))
    assert await envoy.code() == grpc.StatusCode.UNAVAILABLE
