"""Calls are counted and timed, and nothing about them changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import StringValue

from ratelimit.errors import RequestError
from ratelimit.observed import observed
from ratelimit.stats import Stats
from sidecar.errors import RpcError, StatusCode, StoreError
from sidecar.rpc import CallContext, Reply, Service, StreamMethod, UnaryMethod
from tests.ratelimit.test_stats import shown

Handle = Callable[[Any, CallContext], Reply | Awaitable[Reply]]


def failing(cause: Exception) -> RpcError:
    error = RpcError(StatusCode.UNKNOWN, "no")
    error.__cause__ = cause
    return error


def made(handle: Handle, stats: Stats) -> Handle:
    ticks = iter(range(100))
    stream = StreamMethod("Watch", StringValue, lambda _: None)  # type: ignore[arg-type,return-value]
    service = observed(
        Service("s", (UnaryMethod("Ask", StringValue, handle), stream)), stats, lambda: float(next(ticks))
    )
    assert service.methods[1] is stream
    method = service.methods[0]
    assert isinstance(method, UnaryMethod)
    return method.handle


def at_once(answer: Reply | Exception) -> Handle:
    def handle(_message: Any, _context: CallContext) -> Reply:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


def awaited(answer: Reply | Exception) -> Handle:
    async def handle(_message: Any, _context: CallContext) -> Reply:
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


KINDS = (at_once, awaited)


@pytest.mark.parametrize("kind", KINDS)
async def test_an_answer(kind: Callable[[Reply | Exception], Handle]) -> None:
    stats = Stats()
    reply = made(kind(StringValue(value="yes")), stats)(StringValue(), CallContext("/s/Ask"))
    assert (reply if isinstance(reply, StringValue) else await reply) == StringValue(value="yes")  # type: ignore[misc]
    series = shown(stats)
    assert series['ratelimit_service_total_requests{grpc_method="Ask"}'] == "1"
    assert series['ratelimit_service_response_time_seconds_sum{grpc_method="Ask"}'] == "1.0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("cause", "counted"),
    [(StoreError("away", transient=True), "redis_error"), (RequestError("no domain"), "service_error")],
)
async def test_a_failure(kind: Callable[[Reply | Exception], Handle], cause: Exception, counted: str) -> None:
    stats = Stats()
    with pytest.raises(RpcError, match="no"):
        reply = made(kind(failing(cause)), stats)(StringValue(), CallContext("/s/Ask"))
        await reply  # type: ignore[misc]
    series = shown(stats)
    assert series[f'ratelimit_service_should_rate_limit_error{{err_type="{counted}"}}'] == "1"
    assert series['ratelimit_service_response_time_seconds_count{grpc_method="Ask"}'] == "1"


async def test_an_error_of_ours_is_timed_and_goes_on() -> None:
    stats = Stats()
    with pytest.raises(ZeroDivisionError):
        await made(awaited(ZeroDivisionError()), stats)(StringValue(), CallContext("/s/Ask"))  # type: ignore[misc]
    assert shown(stats)['ratelimit_service_response_time_seconds_count{grpc_method="Ask"}'] == "1"
