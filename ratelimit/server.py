"""The RateLimitService: one unary call, one decision."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from ratelimit.errors import RequestError
from ratelimit.limiter import Decision, Limiter
from ratelimit.messages import read_request, write_response
from ratelimit.rules import RuleSet
from sidecar.errors import RpcError, StatusCode, StoreError
from sidecar.rpc import CallContext, Service, UnaryMethod

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"


@dataclass(frozen=True, slots=True)
class Presentation:
    """What a client sees of a decision: headers on every answer, a body when it is over the limit."""

    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""


Presenter: TypeAlias = Callable[[Decision], Presentation]


def plain(_decision: Decision) -> Presentation:
    """Nothing besides the status."""
    return Presentation()


def rate_limit_service(limiter: Limiter, rules: Callable[[], RuleSet], presenter: Presenter = plain) -> Service:
    """The service over `limiter`; `rules` gives the rule set of the moment."""

    def should_rate_limit(
        message: RateLimitRequest, _context: CallContext
    ) -> RateLimitResponse | Awaitable[RateLimitResponse]:
        try:
            decision = limiter.decide(rules(), read_request(message))
        except (RequestError, StoreError) as error:
            raise _rpc_error(error) from error
        if inspect.isawaitable(decision):
            return _later(decision, presenter)
        return _answer(decision, presenter)

    return Service(SERVICE, (UnaryMethod("ShouldRateLimit", RateLimitRequest, should_rate_limit),))


async def _later(waiting: Awaitable[Decision], presenter: Presenter) -> RateLimitResponse:
    try:
        return _answer(await waiting, presenter)
    except StoreError as error:
        raise _rpc_error(error) from error


def _answer(decision: Decision, presenter: Presenter) -> RateLimitResponse:
    presentation = presenter(decision)
    return write_response(decision, presentation.headers, presentation.body)


def _rpc_error(error: RequestError | StoreError) -> RpcError:
    """A failure is always an error, never a verdict: open or closed is Envoy's `failure_mode_deny` alone."""
    if isinstance(error, StoreError):
        return RpcError(StatusCode.UNAVAILABLE, "the counter store does not answer")
    return RpcError(StatusCode.UNKNOWN, str(error))
