"""The processor: phases of one request in, outcomes out. Pure: no gRPC, no protobuf, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from extproc.context import Exchange, Forward, MetadataValue, NeedBody, Outcome, Reply, RequestHeaders
from extproc.errors import Rejected
from extproc.filters import ON_HEADERS, Filter, on_body
from extproc.policy import Policy
from extproc.providers import openai

ROUTE_HEADER = "x-headgate-route"
METADATA = "headgate"
USAGE_METADATA = "headgate.usage"
LIMITS_METADATA = "headgate.limits"
_JSON = (("content-type", "application/json"),)
_FORWARD_REMOVES = ("authorization",)


class Processor:
    """Opens an `Exchange` per request and runs the filters of each phase over it."""

    def __init__(self, policy: Callable[[], Policy], draw: Callable[[], float]) -> None:
        self._policy = policy
        self._on_body = on_body(draw)

    def on_headers(self, headers: RequestHeaders) -> tuple[Exchange, Outcome]:
        """The request headers have arrived. The exchange keeps the policy it began with to its end."""
        exchange = Exchange(self._policy(), headers)
        return exchange, _run(ON_HEADERS, exchange) or NeedBody()

    def on_body(self, exchange: Exchange, body: bytes) -> Outcome:
        """The whole request body has arrived."""
        exchange.raw_body = body
        return _run(self._on_body, exchange) or _forward(exchange)


def _run(filters: tuple[Filter, ...], exchange: Exchange) -> Reply | None:
    try:
        for run in filters:
            reply = run(exchange)
            if reply is not None:
                return reply
    except Rejected as rejected:
        body = openai.error_body(rejected.message, kind=rejected.kind, code=rejected.code, param=rejected.param)
        return Reply(rejected.status, body, _JSON + rejected.headers)
    return None


def _forward(exchange: Exchange) -> Forward:
    target, operation = exchange.target, exchange.operation
    assert target is not None
    assert operation is not None
    _, _, query = exchange.headers.one(":path").partition("?")
    path = f"{target.base_path}{operation.path}"
    headers = [(ROUTE_HEADER, target.route), (":path", f"{path}?{query}" if query else path)]
    if exchange.rewritten is not None:
        headers.append(("content-length", str(len(exchange.rewritten))))
    return Forward(tuple(headers), _FORWARD_REMOVES, exchange.rewritten, describe(exchange))


def describe(exchange: Exchange) -> Mapping[str, Mapping[str, MetadataValue]]:
    """What Envoy's later filters and its access log learn about the request, by metadata namespace.

    `headgate.usage` is seeded with the estimate, so that a stream that ends without a usage is charged it.
    """
    facts: dict[str, MetadataValue] = {}
    if exchange.key is not None:
        facts["key"] = exchange.key.name
        if exchange.key.limited:
            facts["limited_key"] = exchange.key.name
    if exchange.operation is not None:
        facts["operation"] = exchange.operation.name
    if exchange.model is not None:
        facts["model"] = exchange.model.name
    if exchange.target is None:
        return {METADATA: facts}
    facts["provider"] = exchange.target.provider
    facts["target_model"] = exchange.target.model
    facts["estimate"] = exchange.estimate
    usage: dict[str, MetadataValue] = {"total": exchange.estimate}
    if exchange.strip_usage:
        usage["strip"] = True
    return {METADATA: facts, USAGE_METADATA: usage}
