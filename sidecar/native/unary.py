"""Unary calls: in one piece and answered at once, as nearly all of them, or with a life of their own."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from sidecar.errors import StatusCode
from sidecar.native import flow, wire
from sidecar.native.call import Call
from sidecar.native.headers import Request
from sidecar.rpc import REPLIES, Reply, UnaryMethod

if TYPE_CHECKING:
    from sidecar.native.connection import Connection


def whole(
    connection: Connection,
    stream: int,
    request: Request,
    method: UnaryMethod,
    payload: bytes,
    call: UnaryCall | None = None,
) -> None:
    """A call whose message is in one frame: answered in one piece when its handler does not wait.

    `call` is there, and one of the connection's, when its HEADERS came apart. Else it becomes one only when it waits,
    fails or has a large reply.
    """
    connection.unacked += len(payload) + wire.MESSAGE_HEAD_SIZE
    if connection.unacked >= connection.half_window:
        flow.settle(connection)
    try:
        message = method.request.FromString(payload)
    except DecodeError:
        _alive(connection, stream, request, method, call).unreadable()
        return
    try:
        reply = method.handle(message, request.context)
        if isinstance(reply, REPLIES):
            answer = reply.SerializeToString()
            size = len(answer) + 5
            if (
                size <= connection.send_window
                and size <= connection.peer_window
                and size <= 16_384
                and not connection.blocked
            ):
                connection.send_window -= size
                connection.floods.ended_well += 1
                connection.out.append(wire.whole_reply(stream, answer))
                if call is not None:
                    del connection.calls[stream]
                    call.finished = True
                    call.disarm()
                return
    except Exception as error:
        _alive(connection, stream, request, method, call).fail(error)
        return
    _alive(connection, stream, request, method, call).answer(reply)


def _alive(
    connection: Connection, stream: int, request: Request, method: UnaryMethod, call: UnaryCall | None
) -> UnaryCall:
    """The call as one of the connection's."""
    if call is None:
        call = UnaryCall(connection, stream, request, method)
    call.ended = True
    connection.calls[stream] = call
    return call


class UnaryCall(Call):
    """One message in, one out."""

    __slots__ = ("_payload", "method")

    def __init__(self, connection: Connection, stream: int, request: Request, method: UnaryMethod) -> None:
        super().__init__(connection, stream, request)
        self.method = method
        self._payload: bytes | None = None

    @property
    def untouched(self) -> bool:
        """Whether nothing of its message has come."""
        return self._payload is None and not self._assembler and not self.ended

    def message(self, payload: bytes) -> None:
        if self._payload is not None:
            self.end_with(StatusCode.INTERNAL, "one message was expected, more came")
            return
        self._payload = payload
        if not self.ended:
            self._hold(len(payload))

    def complete(self) -> None:
        if self._payload is None:
            self.end_with(StatusCode.INTERNAL, "one message was expected, none came")
            return
        try:
            message = self.method.request.FromString(self._payload)
        except DecodeError:
            self.unreadable()
            return
        try:
            reply = self.method.handle(message, self.request.context)
        except Exception as error:
            self.fail(error)
            return
        self.answer(reply)

    def unreadable(self) -> None:
        """End: what came is no message."""
        self.end_with(StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")

    def answer(self, reply: Reply | Awaitable[Reply]) -> None:
        """Send what the handler returned, at once or when it is there."""
        if isinstance(reply, REPLIES):
            self._send_reply(reply)
        else:
            self.watch_deadline()
            self.wait_for(reply, self._send_reply)

    def _send_reply(self, reply: Reply) -> None:
        try:
            payload = reply.SerializeToString()
        except Exception as error:
            self.fail(error)
            return
        connection = self._connection
        size = len(payload) + wire.MESSAGE_HEAD_SIZE
        if (
            size <= connection.send_window
            and size <= self.send_window
            and size <= wire.MAX_FRAME
            and not connection.blocked
        ):
            connection.send_window -= size
            connection.write(wire.whole_reply(self.stream, payload))
            self._close()
        else:
            self.send(payload)
            self.finish()
