"""The processor: phases of one request in, outcomes out. Pure: no gRPC, no protobuf, no clock, no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from extproc.balance.health import Health
from extproc.cache.controls import CONTROL_HEADER, SALT_HEADER
from extproc.context import AskCache, Exchange, Facts, Forward, MetadataValue, NeedBody, Outcome, Reply, RequestHeaders
from extproc.errors import Rejected
from extproc.filters import ON_BODY, Filter, on_forward, on_headers, protocols
from extproc.filters.ask_cache import BETA_HEADER
from extproc.filters.own_key import OWN_KEY_HEADER
from extproc.filters.protocols import PROTOCOLS_HEADER
from extproc.heads import Heads
from extproc.policy import Policy
from extproc.providers import openai
from extproc.providers.dialect import DIALECTS
from extproc.targets import CAPTURED, OWN_KEY, REALTIME

ROUTE_HEADER = "x-headgate-route"
RETRIES_HEADER = "x-envoy-max-retries"  # wins over the route's
# The request headers that filters read: Envoy sends these and no others.
HEADERS = (
    ":method",
    ":path",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "upgrade",
    OWN_KEY_HEADER,
    PROTOCOLS_HEADER,
    BETA_HEADER,
    CONTROL_HEADER,
    SALT_HEADER,
)
METADATA = "headgate"
USAGE_METADATA = "headgate.usage"
CACHE_METADATA = "headgate.cache"
TICKET = "ticket"  # in it: no two are the same
_JSON = (("content-type", "application/json"),)
LATER_ATTEMPTS = "attempts"  # what attempts after the first look like
_FORWARD_REMOVES = ("authorization",)  # the provider's clusters take out all other private headers


class Processor:
    """Opens an `Exchange` per request and runs the filters of each phase over it."""

    def __init__(self, policy: Callable[[], Policy], draw: Callable[[], float], health: Health) -> None:
        self._policy = policy
        self._on_headers = on_headers(draw, health)
        self._on_forward = on_forward(draw, health)
        self._heads = Heads()

    def recall(self, mark: bytes, length: bytes) -> tuple[Exchange, Outcome] | None:
        """As `on_headers`, when what comes of heads with this mark (`messages.Head`) is known."""
        return self._heads.recall(self._policy(), mark, length)

    def remember(self, exchange: Exchange, outcome: Outcome, mark: bytes, length: bytes) -> None:
        """What `on_headers` has said of a head."""
        self._heads.remember(exchange, outcome, mark, length)

    def on_headers(self, headers: RequestHeaders) -> tuple[Exchange, Outcome]:
        """The request headers have arrived. The exchange keeps the policy it began with to its end."""
        exchange = Exchange(self._policy(), headers)
        reply = _run(self._on_headers, exchange)
        return exchange, reply or (_forward(exchange) if exchange.order else NeedBody())

    def on_body(self, exchange: Exchange, body: bytes) -> Outcome:
        """The whole request body has arrived."""
        exchange.raw_body = body
        reply = _run(ON_BODY, exchange)
        if reply is not None:
            return reply
        return self.go_on(exchange) if exchange.question is None else AskCache(exchange.question)

    def go_on(self, exchange: Exchange) -> Reply | Forward:
        """There is no kept answer: a provider is asked."""
        return _run(self._on_forward, exchange) or _forward(exchange)


def _run(filters: tuple[Filter, ...], exchange: Exchange) -> Reply | None:
    try:
        for run in filters:
            reply = run(exchange)
            if reply is not None:
                return reply
            if exchange.order and exchange.operation is None:
                break  # decided by its headers alone
    except Rejected as rejected:
        body = openai.error_body(rejected.message, kind=rejected.kind, code=rejected.code, param=rejected.param)
        return Reply(rejected.status, body, _JSON + rejected.headers)
    return None


def _forward(exchange: Exchange) -> Forward:
    model, target = exchange.model, exchange.target
    assert model is not None
    assert target is not None
    route = model.route
    if exchange.realtime:
        route += REALTIME
    elif exchange.ticket:
        route += CAPTURED
    headers = [(ROUTE_HEADER, route), (":path", target.path(exchange.operation_path, exchange.query))]
    removed: tuple[str, ...] = _FORWARD_REMOVES
    if exchange.rewritten is not None:
        headers.append(("content-length", str(len(exchange.rewritten))))
    if exchange.attempts:
        headers.append((RETRIES_HEADER, str(exchange.attempts - 1)))
    if exchange.own_key:
        dialect = DIALECTS[target.dialect]
        headers.append((dialect.credential_header, dialect.credential(exchange.own_key)))
        removed = tuple(name for name in _FORWARD_REMOVES if name != dialect.credential_header)
    if exchange.realtime and exchange.headers.all(PROTOCOLS_HEADER):
        public = protocols.public(exchange.headers)
        if public:
            headers.append((PROTOCOLS_HEADER, public))
        else:
            removed += (PROTOCOLS_HEADER,)
    return Forward(tuple(headers), removed, exchange.rewritten, describe(exchange), _groups(exchange))


@lru_cache(maxsize=4096)
def _named(order: tuple[int, ...], variant: str) -> tuple[str, ...]:
    return tuple(f"{index}{variant}" for index in order)


def _groups(exchange: Exchange) -> tuple[str, ...]:
    """The route's groups in the order of the attempts; nothing where there is only one."""
    assert exchange.model is not None
    if len(exchange.model.targets) == 1 and not exchange.policy.own_provider_keys:
        return ()
    return _named(exchange.order, OWN_KEY if exchange.own_key else "")


def describe(exchange: Exchange) -> Facts:
    """What Envoy's later filters and its access log learn about the request, by metadata namespace.

    Every fact costs Envoy, the access log and us a little, so what follows from others is left out: who served it, for
    example, is the cluster that Envoy names.
    """
    facts: dict[str, MetadataValue] = {}
    key, model = exchange.key, exchange.model
    if key is not None:
        facts["key"] = key.name
    if model is not None and model.name:
        facts["model"] = model.name
    if not exchange.order:
        return {METADATA: facts}
    facts["estimate"] = exchange.estimate
    if exchange.later_attempts:
        facts[LATER_ATTEMPTS] = exchange.later_attempts
    found: dict[str, Mapping[str, MetadataValue]] = {METADATA: facts}
    if exchange.chunks:
        found[USAGE_METADATA] = {"chunks": True, "strip": exchange.strip_usage}
    if exchange.cache_status:
        found[CACHE_METADATA] = {
            "status": exchange.cache_status,
            "reason": exchange.cache_reason,
            TICKET: exchange.ticket,
        }
    return found


def for_envoy(facts: Facts, exchange: Exchange) -> Facts:
    """`facts` with what Envoy's own ratelimit filter needs: whom to ask about, and the usage to settle.

    The usage is seeded with the estimate, so that a stream that ends without one is charged it.
    """
    if exchange.key is None or not exchange.order or not exchange.key.limited:
        return facts
    usage = {**facts.get(USAGE_METADATA, {}), "total": exchange.estimate}
    return {**facts, METADATA: {**facts[METADATA], "limited_key": exchange.key.name}, USAGE_METADATA: usage}
