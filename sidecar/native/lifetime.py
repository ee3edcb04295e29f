"""The life of one connection: its handshake, silence, age, and how it is drained (RFC 9113, sections 3.4, 6.7, 6.8)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from sidecar.native import wire
from sidecar.native.errors import ErrorCode

if TYPE_CHECKING:
    import asyncio

    from sidecar.native.connection import Connection

_DRAIN_PING = b"headgate"
_DRAIN_SECONDS = 1.0  # a peer that does not answer the drain's PING is not waited for longer
_AGE_JITTER = 0.1  # so that connections made together do not end together


class Lifetime:
    """Timers by name, each there at most once."""

    __slots__ = ("_connection", "_draining", "_timers", "last_read", "refusing")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._draining = False
        self.refusing = False  # the peer knows that we are leaving: no new calls
        self.last_read = connection.loop.time()

    def begin(self) -> None:
        """The transport is there: say what we take (3.4), and wait for the peer to do so."""
        limits = self._connection.limits
        ours = {
            wire.MAX_CONCURRENT_STREAMS: limits.max_streams,
            wire.INITIAL_WINDOW_SIZE: limits.stream_window,
            wire.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        self._connection.write(wire.settings(ours))
        self._connection.write(wire.window_update(0, limits.connection_window - wire.DEFAULT_WINDOW))
        self._after("handshake", limits.handshake_timeout, self._connection.abort)
        if limits.keepalive_time:
            self._after("keepalive", limits.keepalive_time, self._keepalive)
        if limits.max_connection_age:
            jitter = random.uniform(1 - _AGE_JITTER, 1 + _AGE_JITTER)  # noqa: S311
            self._after("age", limits.max_connection_age * jitter, self._aged)

    def greeted(self) -> None:
        """The peer's preface and first SETTINGS have come."""
        self._cancel("handshake")

    def end(self) -> None:
        """The transport is gone, or will be."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def stuck(self) -> None:
        """The peer does not take what we write: bear it for a while."""
        self._after("write", self._connection.limits.write_timeout, self._connection.abort)

    def moving(self) -> None:
        """It does again."""
        self._cancel("write")

    def _after(self, name: str, seconds: float, action: Callable[[], None]) -> None:
        self._cancel(name)
        self._timers[name] = self._connection.loop.call_later(seconds, action)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    # silence

    def _keepalive(self) -> None:
        """Ask a silent peer whether it is still there."""
        connection = self._connection
        silent = connection.loop.time() - self.last_read
        if silent < connection.limits.keepalive_time:
            self._after("keepalive", connection.limits.keepalive_time - silent, self._keepalive)
            return
        asked = connection.loop.time()
        connection.write(wire.frame(wire.PING, 0, 0, b"are you?"))

        def check() -> None:
            if self.last_read < asked:
                connection.abort()
            else:
                self._keepalive()

        self._after("keepalive", connection.limits.keepalive_timeout, check)

    # draining

    def _aged(self) -> None:
        """The connection has lived long enough: drain it, and after the grace cut it."""
        self.drain()
        if self._connection.limits.max_connection_age_grace:
            self._after("age", self._connection.limits.max_connection_age_grace, self._connection.abort)

    def drain(self) -> None:
        """Take no new calls, let open ones finish, then close (6.8: GOAWAY twice, so that none is lost)."""
        connection = self._connection
        if self._draining or connection.transport is None:
            return
        if not connection.greeted:
            connection.abort()
            return
        self._draining = True
        connection.write(wire.goaway(wire.MAX_STREAM, ErrorCode.NO_ERROR))
        connection.write(wire.frame(wire.PING, 0, 0, _DRAIN_PING))
        self._after("drain", _DRAIN_SECONDS, self._refuse)

    def ponged(self, payload: bytes) -> None:
        """The peer has answered a PING: when it was the drain's, it has read our first GOAWAY, too."""
        if self._draining and payload == _DRAIN_PING:
            self._refuse()

    def _refuse(self) -> None:
        """What the peer opened before it knew is served, nothing after it."""
        connection = self._connection
        if connection.transport is None or self.refusing:
            return
        self.refusing = True
        connection.max_streams = 0
        connection.write(wire.goaway(connection.last_stream, ErrorCode.NO_ERROR))
