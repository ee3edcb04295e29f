"""A unary call that did not come in one piece, or whose handler waits, or whose reply does."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from sidecar.errors import StatusCode
from sidecar.native import wire
from sidecar.native.call import Call
from sidecar.native.headers import Request
from sidecar.rpc import REPLIES, Reply, UnaryMethod

if TYPE_CHECKING:
    from sidecar.native.connection import Connection


class UnaryCall(Call):
    """One message in, one out. `Connection` answers by itself what comes whole and need not wait."""

    __slots__ = ("_method", "_payload")

    def __init__(self, connection: Connection, stream: int, request: Request, method: UnaryMethod) -> None:
        super().__init__(connection, stream, request)
        self._method = method
        self._payload: bytes | None = None

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
            message = self._method.request.FromString(self._payload)
        except DecodeError:
            self.end_with(StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")
            return
        try:
            reply = self._method.handle(message, self._request.context)
        except Exception as error:
            self.fail(error)
            return
        self.answer(reply)

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
