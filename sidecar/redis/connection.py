"""One pipelined connection: batches of requests out, replies matched to them in order.

The order is all that ties a reply to its request. So a request that timed out or was cancelled keeps its place,
and its late reply is thrown away there. When the order can no longer be trusted the connection is over.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, cast

from hiredis import HiredisError, Reader, ReplyError

from sidecar.errors import StoreError
from sidecar.redis.request import Request

_HIGH_WATER = 1 << 20  # bytes that wait for the socket before the connection asks for a pause
_NOTHING: Any = object()


class Connection(asyncio.Protocol):
    """Knows no reconnects and no timers of its own: its owner calls `expire` when `deadline` has come.

    `on_reply_error` gets every error reply with its request, and decides who answers. `on_lost` is called once,
    when the connection is over, unless it was its owner who ended it. `on_writable`: the pause is over. `timeout`
    (seconds) is how long an answer may take, and how long the connection may owe answers and give none.
    """

    def __init__(
        self,
        on_reply_error: Callable[[Request, ReplyError], None],
        on_lost: Callable[[Connection, StoreError], None],
        on_writable: Callable[[], None],
        timeout: float,
    ) -> None:
        self._on_reply_error = on_reply_error
        self._on_lost = on_lost
        self._on_writable = on_writable
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._reader = Reader(notEnoughData=_NOTHING)
        self.owed: deque[Request] = deque()  # sent and not answered, those that nobody waits for included
        self._sent = 0
        self._batches: deque[tuple[float, int]] = deque()  # when it expires; how many were sent up to its end
        self._last_reply = self._loop.time()
        self._expired = 0  # how many of those sent were answered or given up
        self.paused = False
        self.over = False
        self.stalled = False
        self.made_at = self._loop.time()

    def write(self, requests: Sequence[Request], deadline: float) -> None:
        """Send the requests in one write. `deadline` is in the loop's time."""
        assert self._transport is not None
        self._transport.write(b"".join([request.packed for request in requests]))
        self.owed.extend(requests)
        self._sent += len(requests)
        self._batches.append((deadline, self._sent))

    @property
    def deadline(self) -> float | None:
        """When to look again (the loop's time); None when there is nothing to wait for."""
        silent = self._last_reply + self._timeout if self._sent - len(self.owed) < self._expired else None
        if not self._batches:
            return silent
        return self._batches[0][0] if silent is None else min(silent, self._batches[0][0])

    def expire(self, now: float) -> None:
        """Fail what should have been answered by `now`. A connection that is late and silent is over."""
        answered = self._sent - len(self.owed)
        while self._batches and (self._batches[0][0] <= now or self._batches[0][1] <= answered):
            self._expired = self._batches.popleft()[1]
        if self._expired > answered:
            error = StoreError("Redis: no reply in time", transient=True)
            for request in list(islice(self.owed, self._expired - answered)):
                request.fail(error)
            if now - self._last_reply >= self._timeout:
                self.stalled = True
                self._lost(StoreError("Redis: no reply in time, the connection stalls", transient=True))

    def end(self, error: StoreError) -> None:
        """Close at once, and fail what is owed."""
        self.over = True
        if self._transport is not None:
            self._transport.abort()
        while self.owed:
            self.owed.popleft().fail(error)
        self._batches.clear()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        if not self.over:
            self._match(data)

    def connection_lost(self, reason: Exception | None) -> None:
        self._lost(StoreError(f"Redis: the connection was lost{f' ({reason})' if reason else ''}", transient=True))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._on_writable()

    def _match(self, data: bytes) -> None:
        owed, gets = self.owed, self._reader.gets
        try:
            self._reader.feed(data)
            reply = gets()
            if reply is not _NOTHING:
                self._last_reply = self._loop.time()
            while reply is not _NOTHING:
                if not owed:
                    self._lost(StoreError("Redis: a reply to nothing that was asked", transient=True))
                    return
                request = owed.popleft()
                if reply.__class__ is ReplyError:
                    self._on_reply_error(request, reply)
                    if self.over:
                        return
                else:
                    request.answer(reply)
                reply = gets()
        except HiredisError:
            self._lost(StoreError("Redis: the peer does not speak Redis' protocol", transient=True))

    def _lost(self, error: StoreError) -> None:
        if not self.over:
            self.end(error)
            self._on_lost(self, error)
