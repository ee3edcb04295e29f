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


def rate_limit_service(
    limiter: Limiter,
    rules: Callable[[], RuleSet | None],
    presenter: Presenter = plain,
    timer: Callable[[], float] | None = None,
) -> Service:
    """The service over `limiter`; `rules` gives the rule set of the moment, None while there is none.

    With a `timer` (seconds, any origin) the reply's metadata say how long each decision took.
    """

    def should_rate_limit(message: RateLimitRequest, _context: CallContext) -> Encoded | Awaitable[Encoded]:
        started = timer() if timer is not None else 0.0
        try:
            decision = limiter.decide(rules(), read_request(message))
        except (RequestError, StoreError) as error:
            raise _rpc_error(error) from error
        return answer(decision, started) if isinstance(decision, Decision) else later(decision, started)

    async def later(waiting: Awaitable[Decision], started: float) -> Encoded:
        try:
            return answer(await waiting, started)
        except StoreError as error:
            raise _rpc_error(error) from error

    def answer(decision: Decision, started: float) -> Encoded:
        shown = presenter(decision)
        took = round((timer() - started) * 1e6) if timer is not None else None
        return write_response(decision, shown.headers, shown.body, took)

    return Service(SERVICE, (UnaryMethod("ShouldRateLimit", RateLimitRequest, should_rate_limit),))


def _rpc_error(error: RequestError | StoreError) -> RpcError:
    """A failure is always an error, never a verdict: open or closed is Envoy's `failure_mode_deny` alone."""
    if isinstance(error, StoreError):
        return RpcError(StatusCode.UNAVAILABLE, "the counter store does not answer")
    return RpcError(StatusCode.UNKNOWN, str(error))
