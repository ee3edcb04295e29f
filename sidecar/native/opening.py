"""HEADERS and DATA that need a closer look: new header blocks, padding, trailers, what is late or wrong (RFC 9113, 6).

The frame loop (`connection`) serves the plain ones by itself: a block that it knows, DATA without padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import StatusCode
from sidecar.native import flow, wire
from sidecar.native.call import Call
from sidecar.native.control import must_not_be_idle
from sidecar.native.errors import ConnectionFault, ErrorCode, StreamFault
from sidecar.native.headers import ENCODINGS, Request
from sidecar.native.streaming import StreamCall
from sidecar.native.unary import UnaryCall
from sidecar.rpc import UnaryMethod

if TYPE_CHECKING:
    from sidecar.native.connection import Connection


def data(connection: Connection, flags: int, stream: int, payload: bytes) -> None:
    """DATA with padding, or on a stream that is not open (6.1)."""
    if stream == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0 (6.1)")
    length = len(payload)
    if flags & wire.PADDED:
        payload = _unpadded(payload)
    call = connection.calls.get(stream)
    if call is not None:
        connection.data(call, payload, 0, len(payload), length, flags & wire.END_STREAM)
        return
    must_not_be_idle(connection, stream, "DATA")
    connection.unacked += length
    if connection.unacked >= connection.half_window:
        flow.settle(connection)
    if stream in connection.ended_first:
        if flags & wire.END_STREAM:
            connection.ended_first.discard(stream)
        else:
            connection.floods.spend(0.25)
        return
    connection.floods.spend()
    raise StreamFault(stream, ErrorCode.STREAM_CLOSED, "DATA on a closed stream (5.1)")


def headers(connection: Connection, flags: int, stream: int, payload: bytes) -> None:
    """HEADERS, plain or not (6.2)."""
    if flags & wire.PADDED:
        payload = _unpadded(payload)
    depends_on_itself = False
    if flags & wire.HAS_PRIORITY:
        if len(payload) < 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority (6.2)")
        depends_on_itself = wire.read_u32(payload, 0)[0] & wire.MAX_STREAM == stream
        payload = payload[5:]
    if stream & 1 == 0:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client's stream is odd (5.1.1)")
    if flags & wire.END_HEADERS:
        _block(connection, flags, stream, payload, depends_on_itself)
    else:
        connection.block = Block(stream, flags, payload, depends_on_itself)


class Block:
    """A header block whose end has not come yet."""

    __slots__ = ("depends_on_itself", "flags", "frames", "payload", "stream")

    def __init__(self, stream: int, flags: int, payload: bytes, depends_on_itself: bool) -> None:
        self.stream = stream
        self.depends_on_itself = depends_on_itself
        self.flags = flags
        self.payload = bytearray(payload)
        self.frames = 0


def continuation(connection: Connection, flags: int, _stream: int, payload: bytes) -> None:
    """More of a header block (6.10)."""
    block = connection.block
    if block is None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without a header block (6.10)")
    block.payload += payload
    block.frames += 1
    if len(block.payload) > connection.limits.max_header_block or block.frames > connection.limits.max_continuations:
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end (10.5.1)")
    if flags & wire.END_HEADERS:
        connection.block = None
        _block(connection, block.flags, block.stream, bytes(block.payload), block.depends_on_itself)


def _block(connection: Connection, flags: int, stream: int, block: bytes, depends_on_itself: bool) -> None:
    """A whole header block: of a new call, the trailers of an open one, or late."""
    call = connection.calls.get(stream)
    if call is not None:
        _trailers(connection, call, flags, block)
        return
    if stream <= connection.last_stream:
        connection.blocks.skip(block)
        if stream not in connection.ended_first:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream (5.1)")
        if flags & wire.END_STREAM:
            connection.ended_first.discard(stream)
        return
    connection.last_stream = stream
    if len(connection.calls) >= connection.max_streams:
        connection.blocks.skip(block)
        connection.floods.spend()
        connection.ended_first.add(stream)  # 5.1: what is already under way on it is ignored
        raise StreamFault(stream, ErrorCode.REFUSED_STREAM, "no more streams now (5.1.2)")
    request = connection.blocks.request(block)
    broken = request.malformed or ("a stream depends on itself (5.3.1)" if depends_on_itself else "")
    if broken:
        connection.floods.spend()
        connection.ended_first.add(stream)
        raise StreamFault(stream, ErrorCode.PROTOCOL_ERROR, broken)
    _open(connection, stream, request, ended=bool(flags & wire.END_STREAM))


def _trailers(connection: Connection, call: Call, flags: int, block: bytes) -> None:
    broken = connection.blocks.trailers(block)
    if call.ended:
        raise StreamFault(call.stream, ErrorCode.STREAM_CLOSED, "HEADERS after END_STREAM (5.1)")
    if broken or not flags & wire.END_STREAM:
        raise StreamFault(call.stream, ErrorCode.PROTOCOL_ERROR, broken or "trailers without END_STREAM (8.1)")
    call.ended = True
    call.half_closed()


def _open(connection: Connection, stream: int, request: Request, *, ended: bool) -> None:
    method = request.method
    call: Call
    if request.http_status or method is None or request.encoding not in ENCODINGS:
        call = Call(connection, stream, request)
    elif isinstance(method, UnaryMethod):
        call = UnaryCall(connection, stream, request, method)
    else:
        call = StreamCall(connection, stream, request, method)
    call.ended = ended
    connection.calls[stream] = call
    if request.http_status:
        pass  # answered when it is complete
    elif method is None:
        call.end_with(StatusCode.UNIMPLEMENTED, f"the method {request.context.path} is not served here")
    elif request.encoding not in ENCODINGS:
        call.end_with(StatusCode.UNIMPLEMENTED, f"the encoding '{request.encoding}' is not served here")
    else:
        call.start()
    if ended and not call.finished:
        call.half_closed()


def _unpadded(payload: bytes) -> bytes:
    """A frame's content without its padding (6.1)."""
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame (6.1)")
    return payload[1 : len(payload) - payload[0]]
