"""The RateLimitService: one unary call, one decision."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ratelimit.decision import Decision, LimitRequest
from ratelimit.errors import RequestError
from ratelimit.limiter import Limiter
from ratelimit.messages import Payload, Requests, write_response
from ratelimit.presenter import Presentation, Presenter, plain
from ratelimit.rules import RuleSet
from sidecar.errors import RpcError, StatusCode, StoreError
from sidecar.protowire import Encoded
from sidecar.rpc import CallContext, Service, UnaryMethod
from sidecar.waiting import Mapped

__all__ = ["SERVICE", "Presentation", "Presenter", "plain", "rate_limit_service"]

SERVICE = "envoy.service.ratelimit.v3.RateLimitService"


Describe: TypeAlias = Callable[[RuleSet, LimitRequest, Decision], bytes]


def rate_limit_service(
    limiter: Limiter,
    rules: Callable[[], RuleSet | None],
    presenter: Presenter = plain,
    timer: Callable[[], float] | None = None,
    describe: Describe | None = None,
) -> Service:
    """The service over `limiter`; `rules` gives the rule set of the moment, None while there is none.

    With a `timer` (seconds, any origin) the reply's metadata say how long each decision took, with `describe` what it
    was about (see `ratelimit.description`).
    """

    requests = Requests()

    def should_rate_limit(payload: bytes, _context: CallContext) -> Encoded | Awaitable[Encoded]:
        started = timer() if timer is not None else 0.0
        current = rules()
        try:
            request = requests.read(payload)
            decision = limiter.decide(current, request)
        except (RequestError, StoreError) as error:
            raise _rpc_error(error) from error
        if isinstance(decision, Decision):
            return answer(current, request, decision, started)
        there = decision.then

        def decided(done: asyncio.Future[Any]) -> Encoded:
            try:
                return answer(current, request, there(done), started)
            except StoreError as error:
                raise _rpc_error(error) from error

        return Mapped(decision.future, decided)

    def answer(current: RuleSet | None, request: LimitRequest, decision: Decision, started: float) -> Encoded:
        shown = presenter(decision)
        described = describe(current, request, decision) if describe is not None and current is not None else b""
        took = round((timer() - started) * 1e6) if timer is not None else None
        return write_response(decision, shown.headers, shown.body, took, described)

    return Service(SERVICE, (UnaryMethod("ShouldRateLimit", Payload, should_rate_limit),))


def _rpc_error(error: RequestError | StoreError) -> RpcError:
    """A failure is always an error, never a verdict: open or closed is Envoy's `failure_mode_deny`, or the rule's."""
    if not isinstance(error, StoreError):
        return RpcError(StatusCode.UNKNOWN, str(error))
    # What a store says may hold keys: it is for the log.
    text = "the counter store does not answer" if error.transient else "the counter store cannot count: see the log"
    return RpcError(StatusCode.UNKNOWN, text)
