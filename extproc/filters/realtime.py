"""WebSockets: `GET /v1/realtime?model=…` (https://platform.openai.com/docs/guides/realtime-websocket)."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from extproc.balance.health import Health
from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.filters.authorize import allowed_model
from extproc.filters.operation import plain_path
from extproc.filters.protocols import is_websocket
from extproc.filters.rewrite import plan_paths
from extproc.filters.target import order_targets

PATH = "/v1/realtime"


def open_realtime(draw: Callable[[], float], health: Health) -> Callable[[Exchange], Reply | None]:
    """A filter that takes a WebSocket to a target of the model in its query."""

    def take(exchange: Exchange) -> Reply | None:
        if plain_path(exchange.headers) != PATH:
            return None
        if exchange.headers.one(":method") != "GET":
            raise Rejected(405, f"{PATH} answers GET only.", code="method_not_allowed", headers=(("allow", "GET"),))
        if not is_websocket(exchange.headers):
            raise Rejected(426, f"{PATH} is for WebSockets.", code="upgrade_required")
        query = parse_qsl(exchange.headers.one(":path").partition("?")[2], keep_blank_values=True)
        names = [value for name, value in query if name == "model"]
        if len(names) != 1 or not names[0]:
            raise Rejected(400, f"Name one model: {PATH}?model=NAME.", code="missing_required_parameter", param="model")
        assert exchange.key is not None
        model = allowed_model(exchange.policy, exchange.key, names[0])
        if not any(target.realtime for target in model.targets):
            raise Rejected(
                400,
                f"No provider of the model '{model.name[:128]}' serves WebSockets.",
                code="realtime_not_available",
                param="model",
            )
        exchange.model = model
        exchange.realtime = True
        exchange.operation_path = "/realtime"
        exchange.query = urlencode([(name, value) for name, value in query if name != "model"])
        order_targets(exchange, draw(), health)
        plan_paths(exchange)
        return None

    return take
