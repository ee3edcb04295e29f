"""The RateLimitService: one unary call, one decision."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest

from ratelimit.errors import RequestError
from ratelimit.limiter import Decision, Limiter
from ratelimit.messages import read_request, write_response
from ratelimit.presenter import Presentation, Presenter, plain
from ratelimit.rules import RuleSet
from sidecar.errors import RpcError, StatusCode, StoreError
from sidecar.protowire import Encoded
from sidecar.rpc import CallContext, Service, UnaryMethod

__all__ = ["SERVICE", "Presentation", "Presenter", "plain", "rate_limit_service"]

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"


def rate_limit_service(limiter: Limiter, rules: Callable[[], RuleSet | None], presenter: Presenter = plain) -> Service:
    """The service over `limiter`; `rules` gives the rule set of the moment, None while there is none."""

    def should_rate_limit(message: RateLimitRequest, _context: CallContext) -> Encoded | Awaitable[Encoded]:
        try:
            decision = limiter.decide(rules(), read_request(message))
        except (RequestError, StoreError) as error:
            raise _rpc_error(error) from error
        return _answer(decision, presenter) if isinstance(decision, Decision) else _later(decision, presenter)

    return Service(SERVICE, (UnaryMethod("ShouldRateLimit", RateLimitRequest, should_rate_limit),))


async def _later(waiting: Awaitable[Decision], presenter: Presenter) -> Encoded:
    try:
        return _answer(await waiting, presenter)
    except StoreError as error:
        raise _rpc_error(error) from error


def _answer(decision: Decision, presenter: Presenter) -> Encoded:
    presentation = presenter(decision)
    return write_response(decision, presentation.headers, presentation.body)


def _rpc_error(error: RequestError | StoreError) -> RpcError:
    """A failure is always an error, never a verdict: open or closed is Envoy's `failure_mode_deny` alone."""
    if isinstance(error, StoreError):
        return RpcError(StatusCode.UNAVAILABLE, "the counter store does not answer")
    return RpcError(StatusCode.UNKNOWN, str(error))
