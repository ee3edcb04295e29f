"""The grpc.aio engine: carries transport-neutral services (`sidecar.rpc`) over grpcio.

Handlers are called inline; only what truly awaits is awaited. An exception that is not an `RpcError` ends
the call with INTERNAL and is logged here: never with a clean OK, which Envoy's ext_proc would take for
"go on" (fail open).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from sidecar import peername
from sidecar.errors import RpcError, StatusCode
from sidecar.options import ServerOptions
from sidecar.rpc import CallContext, Service, Step, StreamHandler, StreamMethod, UnaryMethod, decoded
from sidecar.tls import Identity, TlsFiles

_log = structlog.get_logger("grpc")
_GRPC_CODES = {code.value[0]: code for code in grpc.StatusCode}


class GrpcioEngine:
    """Carries `services` over grpc.aio."""

    def __init__(self, services: Sequence[Service], *, max_message_bytes: int, options: ServerOptions) -> None:
        self._services = tuple(services)
        self._max_message_bytes = max_message_bytes
        self._options = options
        self._server: grpc.aio.Server | None = None

    async def start(self, listen: str) -> int:
        """Serve on `unix:///path` or `host:port`. Returns the port (1 for a socket).

        Raises `RuntimeError` when the address cannot be bound, `ConfigError` when the TLS files cannot be used.
        """
        secure = None if self._options.tls is None else _credentials(TlsFiles(self._options.tls))
        # so_reuseport off: a second server on the same port must be an error, not a silent split of calls.
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                *_channel_options(self._options),
            ]
        )
        client_name = "" if self._options.tls is None else self._options.tls.client_name
        server.add_generic_rpc_handlers(tuple(generic_handler(service, client_name) for service in self._services))
        add = server.add_insecure_port(listen) if secure is None else server.add_secure_port(listen, secure)
        port = int(add)
        await server.start()
        self._server = server
        return port

    async def stop(self, grace: float) -> None:
        """Refuse new calls, give running ones `grace` seconds, then cut them."""
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(grace)


def _channel_options(options: ServerOptions) -> Iterator[tuple[str, int]]:
    """https://grpc.github.io/grpc/core/group__grpc__arg__keys.html; grpcio varies the age by a tenth, as we do."""
    yield "grpc.max_concurrent_streams", options.max_concurrent_streams
    if options.max_connection_age:
        yield "grpc.max_connection_age_ms", round(options.max_connection_age * 1_000)
        if options.max_connection_age_grace:
            yield "grpc.max_connection_age_grace_ms", round(options.max_connection_age_grace * 1_000)
    if options.keepalive_time:
        yield "grpc.keepalive_time_ms", round(options.keepalive_time * 1_000)
        yield "grpc.keepalive_timeout_ms", round(options.keepalive_timeout * 1_000)
        yield "grpc.keepalive_permit_without_calls", 1


def _credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Credentials that are asked for at every handshake, so that new files count for new connections."""

    def configuration(identity: Identity) -> Any:
        return grpc.ssl_server_certificate_configuration(
            [(identity.key, identity.certificate)], root_certificates=identity.client_ca
        )

    def renewed() -> Any:
        identity = files.read_if_changed()
        return None if identity is None else configuration(identity)

    first = files.read()
    return grpc.dynamic_ssl_server_credentials(
        configuration(first), renewed, require_client_authentication=first.client_ca is not None
    )


def generic_handler(service: Service, client_name: str = "") -> grpc.GenericRpcHandler:
    """`service` as grpcio wants it, for clients whose certificate is for `client_name`, if there is any."""
    return grpc.method_handlers_generic_handler(
        service.name,
        {
            method.name: _method_handler(_Method(f"/{service.name}/{method.name}", client_name), method)
            for method in service.methods
        },
    )


@dataclass(frozen=True, slots=True)
class _Method:
    """A method's path, and whom it serves."""

    path: str
    client_name: str

    def admit(self, grpc_context: Any) -> None:
        """Raise `RpcError` for a client whose certificate is for somebody else: grpcio cannot refuse the handshake."""
        if not self.client_name:
            return
        names = grpc_context.auth_context().get("x509_subject_alternative_name", ())
        if not peername.fits(self.client_name, [name.decode("utf-8", "replace") for name in names]):
            raise RpcError(StatusCode.UNAUTHENTICATED, "the client's certificate is for another name")


def _method_handler(at: _Method, method: UnaryMethod | StreamMethod) -> grpc.RpcMethodHandler:
    """Messages stay bytes for grpcio: what cannot be parsed or written then ends with a status of ours."""
    if isinstance(method, UnaryMethod):
        return grpc.unary_unary_rpc_method_handler(_unary(at, method))
    if method.single_reply:
        return grpc.stream_unary_rpc_method_handler(_stream_unary(at, method))
    return grpc.stream_stream_rpc_method_handler(_stream_stream(at, method))


def _context(path: str, grpc_context: Any) -> CallContext:
    pairs = grpc_context.invocation_metadata() or ()
    return CallContext(path, {key: value for key, value in pairs if isinstance(value, str)})


async def _abort(grpc_context: Any, path: str, error: Exception) -> None:
    """End the call with the status of `error`. Does not return."""
    if isinstance(error, RpcError):
        await grpc_context.abort(_GRPC_CODES[int(error.code)], error.message)
    _log.error("handler_failed", method=path, exc_info=error)
    await grpc_context.abort(_GRPC_CODES[int(StatusCode.INTERNAL)], "internal error")


def _unary(at: _Method, method: UnaryMethod) -> Callable[[Any, Any], Any]:
    async def call(request: bytes, grpc_context: Any) -> bytes | None:
        try:
            at.admit(grpc_context)
            reply = method.handle(decoded(method.request, request), _context(at.path, grpc_context))
            return (await reply if inspect.isawaitable(reply) else reply).SerializeToString()
        except Exception as error:
            await _abort(grpc_context, at.path, error)
            return None

    return call


async def _step(result: Any) -> Step:
    step: Step = await result if inspect.isawaitable(result) else result
    return step


async def _replies(step: Step) -> AsyncIterator[bytes]:
    for reply in step.replies:
        yield reply.SerializeToString()
    if step.more is not None:
        async for reply in step.more:
            yield reply.SerializeToString()


def _stream_stream(at: _Method, method: StreamMethod) -> Callable[[Any, Any], AsyncIterator[bytes]]:
    async def call(requests: AsyncIterator[bytes], grpc_context: Any) -> AsyncIterator[bytes]:
        handler: StreamHandler | None = None
        try:
            at.admit(grpc_context)
            handler = method.open(_context(at.path, grpc_context))
            async for request in requests:
                step = await _step(handler.on_message(decoded(method.request, request)))
                async for reply in _replies(step):
                    yield reply
                if step.done:
                    return
            async for reply in _replies(await _step(handler.on_end())):
                yield reply
        except Exception as error:
            await _abort(grpc_context, at.path, error)
        finally:
            if handler is not None:
                handler.on_close()

    return call


def _stream_unary(at: _Method, method: StreamMethod) -> Callable[[Any, Any], Any]:
    async def call(requests: AsyncIterator[bytes], grpc_context: Any) -> bytes | None:
        handler: StreamHandler | None = None
        try:
            at.admit(grpc_context)
            handler = method.open(_context(at.path, grpc_context))
            async for request in requests:
                await _step(handler.on_message(decoded(method.request, request)))
            replies = (await _step(handler.on_end())).replies
            if len(replies) != 1:
                raise RpcError(StatusCode.INTERNAL, f"{at.path}: one reply was promised, {len(replies)} came")
            return replies[0].SerializeToString()
        except Exception as error:
            await _abort(grpc_context, at.path, error)
            return None
        finally:
            if handler is not None:
                handler.on_close()

    return call
