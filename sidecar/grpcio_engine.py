"""The grpc.aio engine: carries transport-neutral services (`sidecar.rpc`) over grpcio.

Handlers are called inline; only what truly awaits is awaited. An exception that is not an `RpcError` ends
the call with INTERNAL and is logged here: never with a clean OK, which Envoy's ext_proc would take for
"go on" (fail open).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError, Message

from sidecar.errors import RpcError, StatusCode
from sidecar.rpc import CallContext, Reply, Service, Step, StreamHandler, StreamMethod, UnaryMethod

_log = structlog.get_logger("grpc")
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioEngine:
    """Carries `services` over grpc.aio."""

    def __init__(self, services: Sequence[Service], *, max_message_bytes: int) -> None:
        self._services = tuple(services)
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None

    async def start(self, listen: str) -> int:
        """Serve on `unix:///path` or `host:port`. Returns the port (1 for a socket). Raises `RuntimeError`."""
        # so_reuseport off: a second server on the same port must be an error, not a silent split of calls.
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers(tuple(generic_handler(service) for service in self._services))
        port = int(server.add_insecure_port(listen))
        await server.start()
        self._server = server
        return port

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace)


def generic_handler(service: Service) -> grpc.GenericRpcHandler:
    """`service` as grpcio wants it."""
    return grpc.method_handlers_generic_handler(
        service.name,
        {method.name: _method_handler(f"/{service.name}/{method.name}", method) for method in service.methods},
    )


def _method_handler(path: str, method: UnaryMethod | StreamMethod) -> grpc.RpcMethodHandler:
    decode = method.request.FromString
    if isinstance(method, UnaryMethod):
        return grpc.unary_unary_rpc_method_handler(_unary(path, method), decode, _encode)
    if method.single_reply:
        return grpc.stream_unary_rpc_method_handler(_stream_unary(path, method), decode, _encode)
    return grpc.stream_stream_rpc_method_handler(_stream_stream(path, method), decode, _encode)


def _encode(message: Reply) -> bytes:
    return message.SerializeToString()


def _context(path: str, grpc_context: Any) -> CallContext:
    pairs = grpc_context.invocation_metadata() or ()
    return CallContext(path, {key: value for key, value in pairs if isinstance(value, str)})


async def _abort(grpc_context: Any, path: str, error: Exception) -> None:
    """End the call with the status of `error`. Does not return."""
    if isinstance(error, RpcError):
        await grpc_context.abort(_GRPC_CODES[int(error.code)], error.message)
    if isinstance(error, DecodeError):
        await grpc_context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")
    _log.error("handler_failed", method=path, exc_info=error)
    await grpc_context.abort(_GRPC_CODES[int(StatusCode.INTERNAL)], "internal error")


def _unary(path: str, method: UnaryMethod) -> Callable[[Any, Any], Any]:
    async def call(request: Message, grpc_context: Any) -> Reply | None:
        try:
            reply = method.handle(request, _context(path, grpc_context))
            return await reply if inspect.isawaitable(reply) else reply
        except Exception as error:
            await _abort(grpc_context, path, error)
            return None

    return call


async def _step(result: Any) -> Step:
    step: Step = await result if inspect.isawaitable(result) else result
    return step


async def _replies(step: Step) -> AsyncIterator[Reply]:
    for reply in step.replies:
        yield reply
    if step.more is not None:
        async for reply in step.more:
            yield reply


def _stream_stream(path: str, method: StreamMethod) -> Callable[[Any, Any], AsyncIterator[Reply]]:
    async def call(requests: AsyncIterator[Reply], grpc_context: Any) -> AsyncIterator[Reply]:
        handler: StreamHandler | None = None
        try:
            handler = method.open(_context(path, grpc_context))
            async for request in requests:
                step = await _step(handler.on_message(request))
                async for reply in _replies(step):
                    yield reply
                if step.done:
                    return
            async for reply in _replies(await _step(handler.on_end())):
                yield reply
        except Exception as error:
            await _abort(grpc_context, path, error)
        finally:
            if handler is not None:
                handler.on_close()

    return call


def _stream_unary(path: str, method: StreamMethod) -> Callable[[Any, Any], Any]:
    async def call(requests: AsyncIterator[Reply], grpc_context: Any) -> Reply | None:
        handler: StreamHandler | None = None
        try:
            handler = method.open(_context(path, grpc_context))
            async for request in requests:
                await _step(handler.on_message(request))
            replies = (await _step(handler.on_end())).replies
            if len(replies) != 1:
                raise RpcError(StatusCode.INTERNAL, f"{path}: one reply was promised, {len(replies)} came")
            return replies[0]
        except Exception as error:
            await _abort(grpc_context, path, error)
            return None
        finally:
            if handler is not None:
                handler.on_close()

    return call
