"""Flow control of one connection (RFC 9113, sections 5.2 and 6.9): the windows that we give, and those that we get.

What the peer may send is limited by `unacked`, the bytes received and not yet given back: of a stream and of the
connection. What we may send is limited by the windows of both, and by `BURST`: the connection's window is used in
parts, `send_window` now and `reserve` later, so that a peer with a huge window that does not read fills no memory of
ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.native import wire
from sidecar.native.errors import ConnectionFault, ErrorCode, StreamFault

if TYPE_CHECKING:
    from sidecar.native.call import Call
    from sidecar.native.connection import Connection

BURST = 1 << 20  # bytes of DATA between two writes


def settle(connection: Connection) -> None:
    """At least half of the connection's window is used: give it back.

    `unacked` counts the DATA of closed streams and padding, too (6.9). Raises `ConnectionFault` when the peer has sent
    more than it was given.
    """
    if connection.unacked > connection.limits.connection_window:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window (6.9.1)")
    connection.write(wire.window_update(0, connection.unacked))
    connection.unacked = 0


def return_window(connection: Connection, call: Call) -> None:
    """Let the peer send more on a stream whose handler keeps up."""
    if call.unacked >= connection.limits.stream_window >> 1 and not call.ended and call.consuming():
        connection.write(wire.window_update(call.stream, call.unacked))
        call.unacked = 0


def widen_connection(connection: Connection, increment: int) -> None:
    """WINDOW_UPDATE for the connection."""
    if increment == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "an increment of 0 (6.9)")
    connection.reserve += increment
    if connection.reserve + connection.send_window > wire.MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.1)")
    refill(connection)


def widen_stream(call: Call, increment: int) -> None:
    """WINDOW_UPDATE for a stream."""
    if increment == 0:
        raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR, "an increment of 0 (6.9)")
    call.send_window += increment
    if call.send_window > wire.MAX_WINDOW:
        raise StreamFault(call.stream, ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.1)")
    call.pump()


def change_initial_window(connection: Connection, value: int) -> None:
    """SETTINGS_INITIAL_WINDOW_SIZE changes every open stream's window, which may become negative (6.9.2)."""
    if value > wire.MAX_WINDOW:
        raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is out of range (6.5.2)")
    difference, connection.peer_window = value - connection.peer_window, value
    for call in tuple(connection.calls.values()):
        call.send_window += difference
        if call.send_window > wire.MAX_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1 (6.9.2)")
        if difference > 0:
            call.pump()


def refill(connection: Connection) -> None:
    """Make the next part of the connection's window ours, unless the transport is full, and wake who waits for it."""
    if connection.paused:
        return
    part = min(BURST - connection.send_window, connection.reserve)
    if part > 0:
        connection.send_window += part
        connection.reserve -= part
    blocked = connection.blocked
    for _ in range(len(blocked)):
        if connection.send_window <= 0:
            return
        blocked.popitem(last=False)[0].pump()
