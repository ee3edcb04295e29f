"""Frames that carry no call: RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, PRIORITY (RFC 9113, section 6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.native import flow, wire
from sidecar.native.errors import ConnectionFault, ErrorCode, StreamFault

if TYPE_CHECKING:
    from sidecar.native.connection import Connection


def rst_stream(connection: Connection, _flags: int, stream: int, payload: bytes) -> None:
    """The peer gives up a stream (6.4)."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is four bytes (6.4)")
    if stream in connection.ended_first:
        # Envoy answers the end of a stream that it has not ended itself in this way: nothing is lost, nothing owed.
        connection.ended_first.discard(stream)
        return
    if stream == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on stream 0 (6.4)")
    must_not_be_idle(connection, stream, "RST_STREAM")
    call = connection.calls.pop(stream, None)
    if call is not None:
        call.reset()
    connection.floods.spend_reset()


def must_not_be_idle(connection: Connection, stream: int, what: str) -> None:
    """Raise `ConnectionFault` when the peer has never opened this stream (5.1)."""
    if stream > connection.last_stream or not stream & 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"{what} on an idle stream (5.1)")


def settings(connection: Connection, flags: int, stream: int, payload: bytes) -> None:
    """What the peer asks for (6.5)."""
    if stream != 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream (6.5)")
    if flags & wire.ACK:
        if payload:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS that acknowledge are empty (6.5)")
        return
    if len(payload) % 6:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS are six bytes each (6.5)")
    connection.floods.spend(1 + len(payload) // 60)
    connection.write(wire.SETTINGS_ACK)
    for at in range(0, len(payload), 6):
        _setting(connection, payload[at] << 8 | payload[at + 1], wire.read_u32(payload, at + 2)[0])


def _setting(connection: Connection, name: int, value: int) -> None:
    if name == wire.INITIAL_WINDOW_SIZE:
        flow.change_initial_window(connection, value)
    elif name == wire.ENABLE_PUSH and value > 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is 0 or 1 (6.5.2)")
    elif name == wire.MAX_FRAME_SIZE and not wire.MAX_FRAME <= value <= 0xFFFFFF:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range (6.5.2)")


def ping(connection: Connection, flags: int, stream: int, payload: bytes) -> None:
    """A question to be answered, or the answer to ours (6.7)."""
    if stream != 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream (6.7)")
    if len(payload) != 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING is eight bytes (6.7)")
    if flags & wire.ACK:
        connection.life.ponged(payload)
        return
    connection.floods.spend()
    connection.write(wire.frame(wire.PING, wire.ACK, 0, payload))


def goaway(connection: Connection, _flags: int, stream: int, payload: bytes) -> None:
    """The peer opens no more streams; those that are open go on (6.8)."""
    if stream != 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream (6.8)")
    if len(payload) < 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is eight bytes or more (6.8)")
    connection.floods.spend()


def window_update(connection: Connection, _flags: int, stream: int, payload: bytes) -> None:
    """The peer takes more (6.9)."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is four bytes (6.9)")
    increment = wire.read_u32(payload, 0)[0] & wire.MAX_WINDOW
    connection.floods.spend(0.25)
    if stream == 0:
        flow.widen_connection(connection, increment)
        return
    call = connection.calls.get(stream)
    if call is None:
        must_not_be_idle(connection, stream, "WINDOW_UPDATE")
    else:
        flow.widen_stream(call, increment)


def priority(connection: Connection, _flags: int, stream: int, payload: bytes) -> None:
    """Deprecated, and checked only (5.3, 6.3)."""
    if stream == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0 (6.3)")
    connection.floods.spend()
    if len(payload) != 5:
        raise StreamFault(stream, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is five bytes (6.3)")
    if wire.read_u32(payload, 0)[0] & wire.MAX_STREAM == stream:
        raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, "a stream depends on itself (5.3.1)")


def push_promise(_connection: Connection, _flags: int, _stream: int, _payload: bytes) -> None:
    """Never from a client (8.4)."""
    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client (8.4)")


def unknown(connection: Connection, _flags: int, _stream: int, _payload: bytes) -> None:
    """Ignored, but not without end (4.1)."""
    connection.floods.spend()
