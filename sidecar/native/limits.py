"""Every bound of a connection, in one place."""

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
    max_connection_age_grace: float = 0.0  # from then on, until what is still open is cut; 0: never
    client_name: str = ""  # what a client's certificate must be for, see `sidecar.peername`
    write_timeout: float = 60.0  # with output that the peer does not take


class Recent:
    """The last numbers that were added: at least `least`, at most twice as many."""

    __slots__ = ("_least", "_new", "_old")

    def __init__(self, least: int) -> None:
        self._least = least
        self._new: set[int] = set()
        self._old: set[int] = set()

    def add(self, number: int) -> None:
        """Remember it, and forget the oldest ones when there are too many."""
        if len(self._new) >= self._least:
            self._old = self._new
            self._new = set()
        self._new.add(number)

    def discard(self, number: int) -> None:
        """Forget it."""
        self._new.discard(number)
        self._old.discard(number)

    def __contains__(self, number: int) -> bool:
        return number in self._new or number in self._old
