"""One call: what unary and streaming calls have in common, which is how they are answered and how they end.

A handler that returns at once is answered at once, in the loop that read its message. One that waits gets a task, or is
called back (`Mapped`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any

import structlog

from sidecar.errors import RpcError, StatusCode
from sidecar.native import wire
from sidecar.native.errors import ErrorCode, StreamFault
from sidecar.native.headers import ENCODINGS, Request
from sidecar.native.messages import Assembler
from sidecar.waiting import Mapped

if TYPE_CHECKING:
    from sidecar.native.connection import Connection

_log = structlog.get_logger("grpc")
_ACCEPTED = ((b"grpc-accept-encoding", ",".join(ENCODINGS).encode()),)

_NOT_GRPC = b"This is a gRPC server: POST with content-type application/grpc.\n"


class Call:
    """The state of one stream. Its connection feeds it and forgets it when it calls `Connection.closed`.

    This class alone is a call that no handler serves: what it receives is thrown away.
    """

    __slots__ = (
        "_assembler",
        "_connection",
        "_held",
        "_opened",
        "_outbox",
        "_task",
        "_timer",
        "_trailers",
        "ended",
        "finished",
        "missing",
        "request",
        "send_window",
        "stream",
        "unacked",
    )

    lasting = False  # whether a server that stops waits for it (`StreamMethod.lasting`)

    def __init__(self, connection: Connection, stream: int, request: Request) -> None:
        self._connection = connection
        self.stream = stream
        self.request = request
        self.send_window = connection.peer_window
        self.unacked = 0  # received and not yet given back to the peer's window
        self.ended = False  # the peer has half-closed
        self.finished = False  # nothing more will be handled; what waits for a window is still sent
        self.missing = request.length  # bytes of the announced content that have not come yet
        self._assembler: Assembler | None = None
        self._held = 0  # bytes that are kept for the handler, counted in the connection's `buffered`
        self._opened = False  # our HEADERS are sent
        self._outbox: bytearray | None = None  # messages that wait for a window
        self._trailers = b""  # sent when the outbox is empty
        self._task: asyncio.Future[Any] | None = None  # what the handler waits for
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The headers were in order: the call begins, and its time runs."""
        self.watch_deadline()

    # what arrives

    def receive(self, data: bytes, start: int, end: int) -> None:
        """Bytes of messages, cut anywhere. Raises `StreamFault` for more than was announced."""
        size = end - start
        if not self._assembler and self.missing is None and size >= wire.MESSAGE_HEAD_SIZE and not self.finished:
            # Nearly always: exactly one message, uncompressed.
            compressed, length = wire.read_message_head(data, start)
            whole = length == size - wire.MESSAGE_HEAD_SIZE and length <= self._connection.limits.max_message
            if whole and not compressed:
                self.message(data[start + wire.MESSAGE_HEAD_SIZE : end])
                return
        if self.missing is not None:
            self.missing -= size
            if self.missing < 0:
                raise StreamFault(self.stream, ErrorCode.PROTOCOL_ERROR, "more content than its length (8.1.1)")
        if self.finished or self.request.method is None:
            return
        limits = self._connection.limits
        if self._assembler is None:
            self._assembler = Assembler(self.request.encoding, limits.max_message)
        before = len(self._assembler)
        try:
            for payload in self._assembler.add(data[start:end]):
                self.message(payload)
                if self._over():
                    return
        except RpcError as error:
            self.end_with(error.code, error.message)
            return
        self._hold(len(self._assembler) - before)

    def message(self, payload: bytes) -> None:
        """A whole message has arrived."""

    def half_closed(self) -> None:
        """The peer has ended its side: no byte follows. Raises `StreamFault` for less than was announced."""
        if self.missing:
            raise StreamFault(self.stream, ErrorCode.PROTOCOL_ERROR, "less content than its length (8.1.1)")
        if self.finished:
            return
        if self._assembler:
            self.end_with(StatusCode.INTERNAL, "the stream ended in the middle of a message")
        else:
            self.complete()

    def complete(self) -> None:
        """Every message has arrived."""
        if self.request.http_status:
            self._answer_plain(self.request.http_status)

    def _over(self) -> bool:
        """Whether the call has finished in the meantime."""
        return self.finished

    def consuming(self) -> bool:
        """Whether received bytes are on their way to the handler, so that the peer may send more."""
        return True

    def _hold(self, change: int) -> None:
        """Count bytes that are kept until the handler takes them."""
        self._held += change
        connection = self._connection
        connection.buffered += change
        if connection.buffered > connection.limits.max_buffered:
            self.end_with(StatusCode.RESOURCE_EXHAUSTED, "too many unfinished messages on this connection")

    # the handler

    def wait_for(self, awaitable: Awaitable[Any], then: Callable[[Any], None]) -> None:
        """Go on with the result when it is there. The call ends if there is none, and what is awaited with the call."""
        if isinstance(awaitable, Mapped):
            self._wait_for_future(awaitable, then)
            return

        def there(task: asyncio.Future[Any]) -> None:
            self._task = None
            if task.cancelled():
                # By whom? Not by us, or we would have finished.
                self.fail(RuntimeError("the handler was cancelled"))
            elif (error := task.exception()) is None:
                if not self.finished:
                    then(task.result())
            elif isinstance(error, Exception):
                self.fail(error)

        try:
            if awaitable.__class__ is CoroutineType:  # as nearly always: `ensure_future` would look at much else first
                self._task = self._connection.loop.create_task(awaitable)
            else:
                self._task = asyncio.ensure_future(awaitable)
        except TypeError as error:
            self.fail(error)
        else:
            self._task.add_done_callback(there)

    def _wait_for_future(self, mapped: Mapped[Any], then: Callable[[Any], None]) -> None:
        """The same, without a task."""

        def there(done: asyncio.Future[Any]) -> None:
            self._task = None
            try:
                result = mapped.then(done)
            except asyncio.CancelledError:
                self.fail(RuntimeError("the handler was cancelled"))
            except Exception as error:
                self.fail(error)
            else:
                if not self.finished:
                    then(result)

        self._task = mapped.future
        mapped.future.add_done_callback(there)

    # what is sent

    def send(self, payload: bytes) -> None:
        """Send one message, or keep it until a window opens."""
        size = len(payload) + wire.MESSAGE_HEAD_SIZE
        connection = self._connection
        if (
            size <= connection.send_window
            and size <= self.send_window
            and size <= wire.MAX_FRAME
            and self._outbox is None
            and not connection.blocked
        ):
            connection.send_window -= size
            self.send_window -= size
            if self._opened:
                connection.write(wire.message_frame(self.stream, payload))
            else:
                self._opened = True
                connection.write(wire.first_message(self.stream, payload))
            return
        if not self._opened:
            self._opened = True
            connection.write(wire.reply_headers(self.stream))
        if self._outbox is None:
            self._outbox = bytearray()
        self._outbox += wire.message_head(payload)
        self._outbox += payload
        self._drain(self._outbox)

    def pump(self) -> None:
        """A window has opened: send what waited for it, and go on."""
        if self._outbox is None:
            return
        if self._drain(self._outbox) and self._trailers:
            self._connection.write(self._trailers)
            self._close()
        elif not self.finished:
            self.sent()

    def _drain(self, outbox: bytearray) -> bool:
        """Send of the outbox what the windows allow (RFC 9113, section 5.2). Returns whether that was all."""
        connection = self._connection
        while outbox:
            size = min(len(outbox), wire.MAX_FRAME, self.send_window, connection.send_window)
            if size <= 0:
                if connection.send_window <= 0:
                    connection.blocked[self] = None
                return False
            self.send_window -= size
            connection.send_window -= size
            connection.write(wire.frame(wire.DATA, 0, self.stream, bytes(outbox[:size])))
            del outbox[:size]
        self._outbox = None
        return True

    def sent(self) -> None:
        """Some of the outbox, or all of it, has gone."""

    def finish(self) -> None:
        """End with status OK, after everything that still waits for a window."""
        if not self._opened:
            self._opened = True
            self._connection.write(wire.reply_headers(self.stream))
        if self._outbox is None:
            self._connection.write(wire.ok_trailers(self.stream))
            self._close()
        else:
            self._finish_later(wire.ok_trailers(self.stream))

    def _finish_later(self, trailers: bytes) -> None:
        self._trailers = trailers
        self.finished = True
        self.release()

    def _answer_plain(self, status: bytes) -> None:
        """Answer what is no gRPC request in plain HTTP ("gRPC over HTTP/2", requests of another content-type)."""
        self._connection.write(wire.plain_headers(self.stream, status))
        self._outbox = bytearray(_NOT_GRPC)
        self._finish_later(wire.frame(wire.DATA, wire.END_STREAM, self.stream))
        self.pump()

    # how it ends

    def fail(self, error: Exception) -> None:
        """End with the status of an error; what is no `RpcError` is ours, is logged, and says nothing to the peer."""
        if self.finished:
            return
        if isinstance(error, RpcError):
            self.end_with(error.code, error.message)
        else:
            _log.error("handler_failed", method=self.request.context.path, exc_info=error)
            self.end_with(StatusCode.INTERNAL, "internal error")

    def end_with(self, code: StatusCode, text: str) -> None:
        """End with a status. Replies that still wait for a window are dropped: the status says so."""
        if self.finished:
            return
        self._drop_outbox()
        extra = _ACCEPTED if code is StatusCode.UNIMPLEMENTED else ()
        self._connection.write(wire.error_trailers(self.stream, code, text, alone=not self._opened, extra=extra))
        self._close()

    def reset(self) -> None:
        """The stream or its connection is gone: stop everything, say nothing."""
        self.finished = True
        self._drop_outbox()
        self.release()

    def _drop_outbox(self) -> None:
        if self._outbox is not None:
            self._outbox = None
            self._connection.blocked.pop(self, None)

    def _close(self) -> None:
        """The last frame is written."""
        self.finished = True
        self.release()
        self._connection.closed(self)

    def release(self) -> None:
        """Let go of the task, the timer and what is kept. Safe to call again."""
        if self._held:
            self._connection.buffered -= self._held
            self._held = 0
        self._assembler = None
        self.disarm()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()

    def disarm(self) -> None:
        """No deadline any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch_deadline(self) -> None:
        """End the call when its `grpc-timeout` has passed."""
        if self.request.timeout is not None and self._timer is None:
            self._timer = self._connection.loop.call_later(
                self.request.timeout, self.end_with, StatusCode.DEADLINE_EXCEEDED, "the deadline has passed"
            )
