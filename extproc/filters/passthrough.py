"""Requests that name their provider themselves: `/p/PROVIDER/…`, any method, any body, never buffered."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from extproc.balance.health import Health
from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.filters.protocols import is_websocket
from extproc.filters.rewrite import plan_paths
from extproc.filters.target import order_targets

PREFIX = "/p/"
_BYTES_PER_TOKEN = 4


def pass_through(draw: Callable[[], float], health: Health) -> Callable[[Exchange], Reply | None]:
    """A filter that takes such a request to its provider, where the key may use that provider's whole API."""

    def take(exchange: Exchange) -> Reply | None:
        path, _, query = exchange.headers.one(":path").partition("?")
        if not path.startswith(PREFIX):
            return None
        provider, _, rest = path.removeprefix(PREFIX).partition("/")
        key = exchange.key
        assert key is not None
        model = exchange.policy.passthroughs.get(provider)
        if model is None or provider not in key.passthrough:
            raise _refused(key.name, provider)
        if _climbs(rest):
            raise Rejected(400, "The path climbs out of itself behind an encoded slash.", code="invalid_path")
        exchange.model = model
        exchange.realtime = is_websocket(exchange.headers)
        if exchange.realtime and not (model.targets[0].realtime and exchange.headers.one(":method") == "GET"):
            raise Rejected(400, f"'{provider}' serves no WebSocket here.", code="realtime_not_available")
        exchange.operation_path = f"/{rest}"
        exchange.query = query
        length = exchange.headers.one("content-length")
        if length.isdecimal() and "json" in exchange.headers.one("content-type"):
            exchange.prompt_tokens = -(-int(length) // _BYTES_PER_TOKEN)
        order_targets(exchange, draw(), health)
        plan_paths(exchange)
        return None

    return take


def _climbs(path: str) -> bool:
    """Whether a server that decodes `path` would find a `..` in it. Those that anybody can see Envoy has resolved.

    An encoded slash alone may be meant: a model's name in a path may hold one.
    """
    if ".." not in path and "%" not in path:
        return False
    return any(part.partition(";")[0] == ".." for part in unquote(path).replace("\\", "/").split("/"))


def _refused(key: str, provider: str) -> Rejected:
    # Whether there is such a provider is nobody's business who may not use it.
    return Rejected(
        403,
        f"The key '{key}' may not use /p/{provider[:64]}/…: a provider has to stand in its `passthrough`.",
        code="passthrough_not_allowed",
        kind="permission_error",
    )
