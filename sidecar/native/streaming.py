"""A call with streams of messages: client-streaming, server-streaming or bidirectional.

Messages go to the handler one by one. While it waits, or while the peer does not take what we say, later messages stay
where they are: their bytes are not given back to the peer's window, so the peer is held back and memory is not filled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

import structlog
from google.protobuf.message import DecodeError

from sidecar.errors import RpcError, StatusCode
from sidecar.native import flow
from sidecar.native.call import Call
from sidecar.native.headers import Request
from sidecar.rpc import Reply, Step, StreamHandler, StreamMethod

if TYPE_CHECKING:
    from sidecar.native.connection import Connection

_log = structlog.get_logger("grpc")


class StreamCall(Call):
    """Messages in, messages out, in steps."""

    __slots__ = ("_ending", "_handler", "_method", "_room", "_waiting")

    def __init__(self, connection: Connection, stream: int, request: Request, method: StreamMethod) -> None:
        super().__init__(connection, stream, request)
        self._method = method
        self._handler: StreamHandler | None = None
        self._waiting: deque[bytes] | None = None  # messages that the handler is not ready for
        self._ending = False  # the handler knows of the end
        self._room: asyncio.Future[None] | None = None  # waits for the outbox to shrink

    @property
    def lasting(self) -> bool:  # type: ignore[override]
        return self._method.lasting

    def start(self) -> None:
        if self.request.timeout is not None:
            self.watch_deadline()
        try:
            self._handler = self._method.open(self.request.context)
        except Exception as error:
            self.fail(error)

    # what arrives

    def message(self, payload: bytes) -> None:
        if self._waiting is None and self._task is None and (self._outbox is None or self._ready()):
            self._step(payload)
            return
        if self._waiting is None:
            self._waiting = deque()
        self._waiting.append(payload)
        self._hold(len(payload))

    def complete(self) -> None:
        self._advance()

    def consuming(self) -> bool:
        return self._waiting is None

    # the handler

    def _ready(self) -> bool:
        """Whether the next message may be handled now: nothing is running, and the peer takes what we say."""
        return self._task is None and (self._outbox is None or len(self._outbox) < self._connection.limits.max_unsent)

    def _step(self, payload: bytes) -> None:
        """Hand one message to the handler."""
        assert self._handler is not None
        try:
            message = self._method.request.FromString(payload)
        except DecodeError:
            self.end_with(StatusCode.INVALID_ARGUMENT, "the message cannot be parsed")
            return
        try:
            step = self._handler.on_message(message)
            if isinstance(step, Step):
                self._take(step)
            else:
                self.wait_for(step, self._stepped)
        except Exception as error:
            self.fail(error)

    def _last_step(self) -> None:
        """Tell the handler that no message follows."""
        assert self._handler is not None
        self._ending = True
        try:
            step = self._handler.on_end()
            if isinstance(step, Step):
                self._take(step)
            else:
                self.wait_for(step, self._stepped)
        except Exception as error:
            self.fail(error)

    def _stepped(self, step: Step) -> None:
        """A step that had to wait is there."""
        try:
            self._take(step)
        except Exception as error:
            self.fail(error)
            return
        if not self.finished:
            self._advance()

    def _take(self, step: Step) -> None:
        """Send what a step says; the last step ends the call."""
        if self._ending and self._method.single_reply and len(step.replies) != 1:
            raise RpcError(StatusCode.INTERNAL, f"one reply was promised, {len(step.replies)} came")
        for reply in step.replies:
            self.send(reply.SerializeToString())
        if step.more is not None:
            last = step.done or self._ending
            self.wait_for(self._relay(step.more), lambda _none: self._relayed(last))
        elif step.done or self._ending:
            self.finish()

    async def _relay(self, replies: AsyncIterator[Reply]) -> None:
        """Send replies as they come, no faster than the peer takes them."""
        try:
            async for reply in replies:
                if self.finished:
                    return
                self.send(reply.SerializeToString())
                while self._full():
                    self._room = self._connection.loop.create_future()
                    await self._room
                self._room = None
        finally:
            if isinstance(replies, AsyncGenerator):
                await replies.aclose()

    def _relayed(self, last: bool) -> None:
        if last:
            self.finish()
        else:
            self._advance()

    def _full(self) -> bool:
        return self._outbox is not None and len(self._outbox) >= self._connection.limits.max_unsent

    def _advance(self) -> None:
        """Handle what has been waiting, then the end."""
        while self._waiting and not self.finished and self._ready():
            payload = self._waiting.popleft()
            self._hold(-len(payload))
            self._step(payload)
        if self.finished or not self._ready():
            return
        self._waiting = None
        flow.return_window(self._connection, self)
        if self.ended and not self._ending and self._handler is not None:
            self._last_step()

    def sent(self) -> None:
        if self._room is not None:
            if not self._full() and not self._room.done():
                self._room.set_result(None)
        elif self._task is None and (self._waiting is not None or self.ended):
            self._advance()

    # how it ends

    def release(self) -> None:
        super().release()
        self._waiting = None
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                handler.on_close()
            except Exception as error:
                _log.error("handler_failed", method=self.request.context.path, exc_info=error)
