"""Every bound of a connection, in one place, and the budgets that floods run out of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes, counts, seconds. The defaults fit Envoy in front of a service with small messages."""

    max_message: int = 4 << 20  # of one received message, after decompression
    max_streams: int = 4_096  # open at once on one connection
    max_header_block: int = 64 << 10  # compressed, CONTINUATION frames included
    max_header_list: int = 64 << 10  # decoded (RFC 9113, section 10.5.1)
    max_continuations: int = 16  # frames of one header block after its first
    stream_window: int = 1 << 20  # that a peer may send on one stream unasked
    connection_window: int = 16 << 20
    max_buffered: int = 256 << 20  # of unfinished messages on one connection
    max_unsent: int = 1 << 20  # replies waiting for a stream's window, before its next message is taken
    handshake_timeout: float = 20.0  # for the preface and the first SETTINGS
    keepalive_time: float = 300.0  # without a byte from the peer, before we ask
    keepalive_timeout: float = 20.0  # for its answer
    max_connection_age: float = 0.0  # then the connection is drained; 0: never
    write_timeout: float = 60.0  # with output that the peer does not take


class Budget:
    """A token bucket: `spend` says whether there was still something to spend.

    Work that ends well gives back, so that busy peers never run out, and peers that only make work do.
    """

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: float, per_second: float) -> None:
        self._most = most
        self._left = most
        self._per_second = per_second
        self._at = 0.0

    def spend(self, now: float, amount: float = 1.0) -> bool:
        """Take `amount` at `now` (seconds, any origin that never goes back)."""
        if self._left < amount:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < amount:
                return False
        elif self._left >= self._most:
            self._at = now
        self._left -= amount
        return True

    def give(self, amount: float) -> None:
        """Give back for work that ended well."""
        self._left = min(self._most, self._left + amount)
