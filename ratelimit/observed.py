"""A service whose calls are counted, whatever it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from ratelimit.stats import Stats
from sidecar.errors import RpcError, StoreError
from sidecar.rpc import REPLIES, CallContext, Reply, Service, UnaryMethod
from sidecar.waiting import Mapped

REDIS_ERROR, SERVICE_ERROR = "redis_error", "service_error"


def observed(service: Service, stats: Stats, timer: Callable[[], float] = time.perf_counter) -> Service:
    """`service` with every unary call counted and timed, and its failures by kind. `timer` gives seconds."""
    methods = tuple(_observed(one, stats, timer) if isinstance(one, UnaryMethod) else one for one in service.methods)
    return Service(service.name, methods)


def kind_of(error: RpcError) -> str:
    """The `err_type` of a failed call."""
    return REDIS_ERROR if isinstance(error.__cause__, StoreError) else SERVICE_ERROR


def _observed(method: UnaryMethod, stats: Stats, timer: Callable[[], float]) -> UnaryMethod:
    calls, seconds = stats.calls(method.name)

    def handle(message: Any, context: CallContext) -> Reply | Awaitable[Reply]:
        started = timer()
        calls.value += 1
        try:
            reply = method.handle(message, context)
        except RpcError as error:
            stats.failed(kind_of(error))
            seconds.observe(timer() - started)
            raise
        if isinstance(reply, REPLIES):
            seconds.observe(timer() - started)
            return reply
        waiting = reply if isinstance(reply, Mapped) else Mapped(asyncio.ensure_future(reply), asyncio.Future.result)
        there: Callable[[asyncio.Future[Any]], Reply] = waiting.then

        def told(done: asyncio.Future[Any]) -> Reply:
            try:
                return there(done)
            except RpcError as error:
                stats.failed(kind_of(error))
                raise
            finally:
                seconds.observe(timer() - started)

        return Mapped(waiting.future, told)

    return UnaryMethod(method.name, method.request, handle)
