"""Which endpoint is asked for."""

from __future__ import annotations

from extproc.context import Exchange, Reply, RequestHeaders
from extproc.errors import Rejected
from extproc.filters.protocols import is_websocket
from extproc.providers.openai import OPERATIONS


def plain_path(headers: RequestHeaders) -> str:
    """The request's path without its query."""
    return headers.one(":path").partition("?")[0]


def find_operation(exchange: Exchange) -> Reply | None:
    """Find the operation by path and method, or refuse: 404 for an unknown path, 405 for a wrong method."""
    path = plain_path(exchange.headers)
    operation = OPERATIONS.get(path)
    if operation is None:
        raise Rejected(
            404,
            f"Unknown request URL: {path[:256]}. Endpoints here: {', '.join(OPERATIONS)}, /v1/models.",
            code="unknown_url",
        )
    if is_websocket(exchange.headers):
        raise Rejected(400, f"{path} takes no WebSocket.", code="realtime_not_available")
    if exchange.headers.one(":method") != "POST":
        raise Rejected(405, f"{path} answers POST only.", code="method_not_allowed", headers=(("allow", "POST"),))
    exchange.operation = operation
    return None
