"""HTTP for clients and balancers: `/healthcheck`, and `/json` for those that speak no gRPC.

`/json` takes a `RateLimitRequest` as proto3 JSON, by any method, and answers with the `RateLimitResponse`: status 200,
or 429 when the call is over its limit. A body that is no such request, and a request that cannot be decided, is 400;
a store that does not answer is 500.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from google.protobuf import json_format

from ratelimit.http.server import Answer
from ratelimit.observed import REDIS_ERROR, kind_of
from ratelimit.standalone.health import Health
from ratelimit.stats import Stats
from ratelimit.wire import RateLimitRequest, RateLimitResponse
from sidecar.errors import RpcError
from sidecar.rpc import CallContext, Service, UnaryMethod


def api_paths(service: Service, health: Health, stats: Stats) -> Mapping[str, Answer]:
    """The paths of the API over `service`, the RateLimitService; its failures are counted."""
    (method,) = service.methods
    assert isinstance(method, UnaryMethod)
    context = CallContext(f"/{service.name}/{method.name}")

    async def healthcheck(_request: web.Request) -> web.Response:
        return web.Response(text="OK") if health.healthy else web.Response(status=500)

    async def json(request: web.Request) -> web.Response:
        try:
            message = json_format.Parse(await request.text(), RateLimitRequest())
        except (json_format.ParseError, ValueError, LookupError, RecursionError):
            return _plain(400)  # LookupError: the charset is unknown
        try:
            reply = method.handle(message.SerializeToString(), context)
            if inspect.isawaitable(reply):
                reply = await reply
        except RpcError as error:
            kind = kind_of(error)
            stats.failed(kind)
            return _plain(500 if kind == REDIS_ERROR else 400)
        response = RateLimitResponse.FromString(reply.SerializeToString())
        over = response.overall_code == RateLimitResponse.OVER_LIMIT
        return web.Response(text=_json(response), status=429 if over else 200, content_type="application/json")

    return {"/healthcheck": healthcheck, "/json": json}


def _json(message: Any) -> str:
    return str(json_format.MessageToJson(message, indent=None))


_REASONS = {400: "Bad Request", 500: "Internal Server Error"}


def _plain(status: int) -> web.Response:
    return web.Response(text=f"{_REASONS[status]}\n", status=status)
