"""One call: bytes to messages, messages to its handler, replies to frames (gRPC over HTTP/2).

A handler that returns at once is answered at once, in the loop that read its message. One that waits gets a task, and
the messages behind it wait in the stream's window: the peer is held back, memory is not filled.
"""

from __future__ import annotations

import asyncio
import inspect
import zlib
from collections import deque
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import structlog
from google.protobuf.message import DecodeError

from sidecar.errors import RpcError, StatusCode
from sidecar.native import wire
from sidecar.native.errors import ErrorCode, StreamFault
from sidecar.native.headers import Request
from sidecar.rpc import Step, StreamHandler, StreamMethod, UnaryMethod

if TYPE_CHECKING:
    from sidecar.native.connection import Connection

_log = structlog.get_logger("grpc")
_ACCEPTED = ((b"grpc-accept-encoding", b"identity,gzip"),)
_NOT_GRPC = b"This is a gRPC server: POST with content-type application/grpc.\n"
_GZIP = zlib.MAX_WBITS | 16


class Call:
    """The state of one stream."""

    __slots__ = (
        "_buffer",
        "_connection",
        "_handler",
        "_messages",
        "_method",
        "_missing",
        "_opened",
        "_outbox",
        "_request",
        "_task",
        "_timer",
        "_trailers",
        "ended",
        "finished",
        "recv_window",
        "send_window",
        "stream",
        "unacked",
    )

    def __init__(
        self, connection: Connection, stream: int, method: UnaryMethod | StreamMethod, request: Request
    ) -> None:
        self._connection = connection
        self.stream = stream
        self._method = method
        self._request = request
        self.send_window = connection.peer_window
        self.recv_window = connection.limits.stream_window
        self.unacked = 0  # received and not yet given back to the peer's window
        self.ended = False  # the peer has half-closed
        self.finished = False  # nothing more will be sent or handled
        self._missing = request.length  # bytes of the announced content that have not come yet
        self._buffer = b""
        self._messages: deque[Any] = deque()
        self._handler: StreamHandler | None = None
        self._opened = False
        self._outbox: bytearray | None = None  # messages that wait for a window
        self._trailers = b""  # sent when the outbox is empty
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # what arrives

    def start(self) -> None:
        """The headers were in order: open the handler of a streaming method, watch the deadline."""
        if self._request.timeout is not None and isinstance(self._method, StreamMethod):
            self._watch_deadline()
        if isinstance(self._method, StreamMethod):
            try:
                self._handler = self._method.open(self._request.context)
            except Exception as error:
                self.fail(error)

    def receive(self, data: bytes) -> None:
        """Bytes of messages, cut anywhere. Raises `StreamFault` for more than was announced."""
        if self._missing is not None:
            self._missing -= len(data)
            if self._missing < 0:
                raise StreamFault(self.stream, ErrorCode.PROTOCOL_ERROR, "more content than its length (8.1.1)")
        if self.finished or self._request.http_status:
            return
        buffer = self._buffer + data if self._buffer else data
        position, size = 0, len(buffer)
        limit = self._connection.limits.max_message
        while size - position >= 5:
            length = wire.read_u32(buffer, position + 1)[0]
            if length > limit:
                self.end_with(
                    StatusCode.RESOURCE_EXHAUSTED, f"a message of {length} bytes is larger than the limit of {limit}"
                )
                return
            end = position + 5 + length
            if end > size:
                break
            self._arrived(buffer[position], buffer[position + 5 : end])
            if self._over():
                return
            position = end
        before = len(self._buffer)
        self._buffer = buffer[position:] if position < size else b""
        self._connection.buffered += len(self._buffer) - before

    def _arrived(self, compressed: int, payload: bytes) -> None:
        if compressed:
            try:
                payload = self._decompress(compressed, payload)
            except RpcError as error:
                self.fail(error)
                return
        try:
            message = self._method.request.FromString(payload)
        except DecodeError:
            self.end_with(StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")
            return
        if isinstance(self._method, StreamMethod) and self._idle():
            self._step(message)
        else:
            self._messages.append(message)

    def _decompress(self, flag: int, payload: bytes) -> bytes:
        if flag != 1 or self._request.encoding != "gzip":
            raise RpcError(StatusCode.INTERNAL, f"a compressed message in the encoding '{self._request.encoding}'")
        limit = self._connection.limits.max_message
        inflater = zlib.decompressobj(_GZIP)
        try:
            plain = inflater.decompress(payload, limit + 1)
        except zlib.error as error:
            raise RpcError(StatusCode.INTERNAL, "a compressed message cannot be decompressed") from error
        if len(plain) > limit or inflater.unconsumed_tail:
            raise RpcError(
                StatusCode.RESOURCE_EXHAUSTED, f"a message is larger than the limit of {limit} when decompressed"
            )
        if not inflater.eof:
            raise RpcError(StatusCode.INTERNAL, "a compressed message is cut short")
        return plain

    def end(self) -> None:
        """The peer has half-closed: no byte follows. Raises `StreamFault` for less than was announced."""
        self.ended = True
        if self._missing:
            raise StreamFault(self.stream, ErrorCode.PROTOCOL_ERROR, "less content than its length (8.1.1)")
        if self.finished:
            return
        if self._request.http_status:
            self._answer_plain(self._request.http_status)
        elif self._buffer:
            self.end_with(StatusCode.INTERNAL, "the stream ended in the middle of a message")
        elif isinstance(self._method, UnaryMethod):
            self._unary(self._method)
        elif self._idle():
            self._advance()

    # the handler

    def _unary(self, method: UnaryMethod) -> None:
        if len(self._messages) != 1:
            self.end_with(StatusCode.INTERNAL, f"one message was expected, {len(self._messages)} came")
            return
        try:
            reply = method.handle(self._messages.popleft(), self._request.context)
            if inspect.isawaitable(reply):
                if self._request.timeout is not None:
                    self._watch_deadline()
                self._task = asyncio.ensure_future(self._unary_later(reply))
                return
            self._reply_and_finish(reply.SerializeToString())
        except Exception as error:
            self.fail(error)

    async def _unary_later(self, waiting: Awaitable[Any]) -> None:
        try:
            reply = await waiting
            if not self.finished:
                self._reply_and_finish(reply.SerializeToString())
        except Exception as error:
            self.fail(error)

    def _reply_and_finish(self, payload: bytes) -> None:
        size = len(payload) + 5
        connection = self._connection
        if (
            size <= wire.MAX_FRAME
            and size <= self.send_window
            and size <= connection.send_window
            and not connection.blocked
        ):
            connection.send_window -= size
            connection.write(wire.whole_reply(self.stream, payload))
            self._close()
        else:
            self._send(payload)
            self._finish_ok()

    def _over(self) -> bool:
        return self.finished

    def _idle(self) -> bool:
        """Whether the next message may be handled now: nothing is running, and the peer takes what we say."""
        if self._task is not None:
            return False
        return self._outbox is None or len(self._outbox) < self._connection.limits.max_unsent

    def _step(self, message: Any) -> None:
        """Hand one message to the handler of a streaming method."""
        assert self._handler is not None
        try:
            step = self._handler.on_message(message)
            if inspect.isawaitable(step):
                self._task = asyncio.ensure_future(self._step_later(step, last=False))
            else:
                self._take(step)
        except Exception as error:
            self.fail(error)

    async def _step_later(self, waiting: Awaitable[Step], *, last: bool) -> None:
        try:
            step = await waiting
            if self.finished:
                return
            self._take(step, last=last)
            if step.more is not None and not self._over():
                async for reply in step.more:
                    if self._over():
                        return
                    self._reply(reply)
                if last or step.done:
                    self._finish_ok()
        except Exception as error:
            self.fail(error)
            return
        self._task = None
        if not self.finished:
            self._advance()

    async def _at_once(self, step: Step) -> Step:
        return step

    def _take(self, step: Step, *, last: bool = False) -> None:
        """Send what a step says."""
        for reply in step.replies:
            self._reply(reply)
            if self.finished:
                return
        if step.more is not None:
            if self._task is None:
                rest = Step(more=step.more, done=step.done)
                self._task = asyncio.ensure_future(self._step_later(self._at_once(rest), last=last))
        elif step.done or last:
            self._finish_ok()

    def _reply(self, reply: Any) -> None:
        if not self._opened:
            self._opened = True
            self._connection.write(wire.reply_headers(self.stream))
        self._send(reply.SerializeToString())

    def _advance(self) -> None:
        """Handle what has been waiting, then the end."""
        while self._messages and self._idle() and not self.finished:
            self._step(self._messages.popleft())
        if self.finished or not self._idle():
            return
        self._connection.return_window(self)
        if self.ended and not self._messages and self._handler is not None:
            self._last_step()

    def _last_step(self) -> None:
        assert self._handler is not None
        try:
            step = self._handler.on_end()
            if inspect.isawaitable(step):
                self._task = asyncio.ensure_future(self._step_later(step, last=True))
                return
            if isinstance(self._method, StreamMethod) and self._method.single_reply and len(step.replies) != 1:
                raise RpcError(StatusCode.INTERNAL, f"one reply was promised, {len(step.replies)} came")
            self._take(step, last=True)
        except Exception as error:
            self.fail(error)

    def consuming(self) -> bool:
        """Whether received bytes are on their way to the handler, so that the peer may send more."""
        return not self._messages or isinstance(self._method, UnaryMethod)

    def _answer_plain(self, status: bytes) -> None:
        """Answer what is no gRPC request in plain HTTP ("gRPC over HTTP/2", requests of another content-type)."""
        self.finished = True
        self._connection.write(wire.plain_headers(self.stream, status))
        self._outbox = bytearray(_NOT_GRPC)
        self._trailers = wire.frame(wire.DATA, wire.END_STREAM, self.stream)
        self.pump()

    # what is sent

    def _send(self, payload: bytes) -> None:
        if not self._opened:
            self._opened = True
            self._connection.write(wire.reply_headers(self.stream))
        data = wire.message(payload)
        connection = self._connection
        room = 0 if connection.blocked else min(wire.MAX_FRAME, self.send_window, connection.send_window)
        if self._outbox is None and len(data) <= room:
            self.send_window -= len(data)
            connection.send_window -= len(data)
            connection.write(wire.frame(wire.DATA, 0, self.stream, data))
            return
        if self._outbox is None:
            self._outbox = bytearray()
        self._outbox += data
        self.pump()

    def pump(self) -> None:
        """Send of the outbox what the windows allow (RFC 9113, section 5.2)."""
        connection = self._connection
        while self._outbox:
            size = min(len(self._outbox), wire.MAX_FRAME, self.send_window, connection.send_window)
            if size <= 0:
                if connection.send_window <= 0:
                    connection.block(self)
                return
            self.send_window -= size
            connection.send_window -= size
            connection.write(wire.frame(wire.DATA, 0, self.stream, bytes(self._outbox[:size])))
            del self._outbox[:size]
        self._outbox = None
        if self._trailers:
            connection.write(self._trailers)
            self._close()
        elif not self.finished and self._task is None and (self._messages or self.ended):
            self._advance()

    def _finish_ok(self) -> None:
        if not self._opened:
            self._opened = True
            self._connection.write(wire.reply_headers(self.stream))
        self._finish(wire.ok_trailers(self.stream))

    def _finish(self, trailers: bytes) -> None:
        if self._outbox:
            self._trailers = trailers
            self.finished = True
            self._release()
        else:
            self._connection.write(trailers)
            self._close()

    # how it ends

    def fail(self, error: Exception) -> None:
        """End with the status of an error; what is no `RpcError` is ours, is logged, and says nothing to the peer."""
        if isinstance(error, RpcError):
            self.end_with(error.code, error.message)
        else:
            _log.error("handler_failed", method=self._request.context.path, exc_info=error)
            self.end_with(StatusCode.INTERNAL, "internal error")

    def end_with(self, code: StatusCode, text: str) -> None:
        """End with a status. Replies that still wait for a window are dropped: the status says so."""
        if self.finished:
            return
        self._outbox = None
        extra = _ACCEPTED if code is StatusCode.UNIMPLEMENTED else ()
        self._connection.write(wire.error_trailers(self.stream, code, text, alone=not self._opened, extra=extra))
        self._close()

    def reset(self) -> None:
        """The stream or its connection is gone: stop everything, say nothing."""
        self.finished = True
        self._outbox = None
        self._release()

    def _close(self) -> None:
        self.finished = True
        self._release()
        self._connection.closed(self)

    def _release(self) -> None:
        """Let go of the handler, its task, the timer and what is buffered. Happens once."""
        self._connection.buffered -= len(self._buffer)
        self._buffer = b""
        self._messages.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        task, self._task = self._task, None
        if task is not None and task is not _current_task():
            task.cancel()
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.on_close()
            except Exception as error:
                _log.error("handler_failed", method=self._request.context.path, exc_info=error)

    def _watch_deadline(self) -> None:
        assert self._request.timeout is not None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(
            self._request.timeout, self.end_with, StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"
        )


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
