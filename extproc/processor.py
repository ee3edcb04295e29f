"""The processor: phases of one request in, outcomes out. Pure: no gRPC, no protobuf, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable

from extproc.context import Exchange, Facts, Forward, MetadataValue, NeedBody, Outcome, Reply, RequestHeaders
from extproc.errors import Rejected
from extproc.filters import ON_HEADERS, Filter, on_body
from extproc.policy import Policy
from extproc.providers import openai

ROUTE_HEADER = "x-headgate-route"
# The request headers that filters read: Envoy sends these and no others.
HEADERS = (":method", ":path", "authorization", "content-encoding", "content-length")
METADATA = "headgate"
USAGE_METADATA = "headgate.usage"
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


def describe(exchange: Exchange) -> Facts:
    """What Envoy's later filters and its access log learn about the request, by metadata namespace.

    Every fact costs Envoy, the access log and us a little, so what follows from others is left out.
    """
    facts: dict[str, MetadataValue] = {}
    key, model, target = exchange.key, exchange.model, exchange.target
    if key is not None:
        facts["key"] = key.name
    if model is not None:
        facts["model"] = model.name
    if target is None or model is None:
        return {METADATA: facts}
    facts["provider"] = target.provider
    if target.model != model.name:
        facts["target_model"] = target.model
    facts["estimate"] = exchange.estimate
    return {METADATA: facts, USAGE_METADATA: {"strip": True}} if exchange.strip_usage else {METADATA: facts}


def for_envoy(facts: Facts, exchange: Exchange) -> Facts:
    """`facts` with what Envoy's own ratelimit filter needs: whom to ask about, and the usage to settle.

    The usage is seeded with the estimate, so that a stream that ends without one is charged it.
    """
    if exchange.key is None or exchange.target is None or not exchange.key.limited:
        return facts
    usage = {**facts.get(USAGE_METADATA, {}), "total": exchange.estimate}
    return {**facts, METADATA: {**facts[METADATA], "limited_key": exchange.key.name}, USAGE_METADATA: usage}
