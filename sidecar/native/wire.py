"""Frames as bytes: what we send, and how a frame's head is read (RFC 9113, sections 4.1 and 6).

Replies use literal header fields without indexing (RFC 7541, section 6.2.2), so that our header blocks are constants
and need no state.
"""

from __future__ import annotations

import struct
from urllib.parse import quote

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_SIZE = 9
MESSAGE_HEAD_SIZE = 5
MAX_FRAME = 16_384
DEFAULT_WINDOW = 65_535
MAX_WINDOW = MAX_STREAM = 0x7FFFFFFF

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

# (length's high byte, length's low bytes, type, flags, stream with its reserved bit)
read_head = struct.Struct(">BHBBI").unpack_from
read_u32 = struct.Struct(">I").unpack_from
# The head of a gRPC message: (compressed, length); and with the head of the DATA frame that it begins.
read_message_head = struct.Struct(">BI").unpack_from
read_message_frame = struct.Struct(">BHBBIBI").unpack_from
_u32 = struct.Struct(">I").pack
_head = struct.Struct(">BHBBI").pack
_message_head = struct.Struct(">BI").pack


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _head(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, _u32(increment))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _u32(code))


def goaway(last_stream: int, code: int, text: str = "") -> bytes:
    return frame(GOAWAY, 0, 0, _u32(last_stream) + _u32(code) + text.encode()[:256])


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def message(payload: bytes) -> bytes:
    """A gRPC message, uncompressed, with its five-byte prefix."""
    return message_head(payload) + payload


def message_head(payload: bytes) -> bytes:
    """What stands before a message: not compressed, and its length."""
    return _message_head(0, len(payload))


def _literal(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, without Huffman coding (RFC 7541, section 6.2.2)."""
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    """An integer with a 7-bit prefix (RFC 7541, section 5.1)."""
    if size < 127:
        return bytes((size,))
    size -= 127
    out = bytearray((127,))
    while size >= 128:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    out.append(size)
    return bytes(out)


_STATUS_200 = b"\x88"  # static table, index 8
REPLY_HEADERS = _STATUS_200 + _literal(b"content-type", b"application/grpc")
_OK_TRAILERS = _literal(b"grpc-status", b"0")
_OK_TRAILERS_HEAD = _head(0, len(_OK_TRAILERS), HEADERS, END_HEADERS | END_STREAM, 0)[:5]
_REPLY_HEADERS_HEAD = _head(0, len(REPLY_HEADERS), HEADERS, END_HEADERS, 0)[:5]
_RST_HEAD = _head(0, 4, RST_STREAM, 0, 0)[:5]
_message_frame_head = struct.Struct(">BHBBIBI").pack


def reply_headers(stream: int) -> bytes:
    """HEADERS that open a reply."""
    return _REPLY_HEADERS_HEAD + _u32(stream) + REPLY_HEADERS


def message_frame(stream: int, payload: bytes) -> bytes:
    """DATA with one uncompressed gRPC message. The message must fit one frame."""
    size = len(payload)
    return _message_frame_head(0, size + 5, DATA, 0, stream, 0, size) + payload


def first_message(stream: int, payload: bytes) -> bytes:
    """HEADERS that open a reply, and DATA with its first message, which must fit one frame."""
    size = len(payload)
    head = _message_frame_head(0, size + 5, DATA, 0, stream, 0, size)
    return b"".join((_REPLY_HEADERS_HEAD, _u32(stream), REPLY_HEADERS, head, payload))


def ok_trailers(stream: int) -> bytes:
    """HEADERS that end a call well."""
    return _OK_TRAILERS_HEAD + _u32(stream) + _OK_TRAILERS


def whole_reply(stream: int, payload: bytes) -> bytes:
    """A unary reply in one piece: headers, one message, trailers. The message must fit one frame."""
    sid = _u32(stream)
    size = len(payload)
    head = _message_frame_head(0, size + 5, DATA, 0, stream, 0, size)
    return b"".join((_REPLY_HEADERS_HEAD, sid, REPLY_HEADERS, head, payload, _OK_TRAILERS_HEAD, sid, _OK_TRAILERS))


def stop_sending(stream: int) -> bytes:
    """RST_STREAM(NO_ERROR): the reply is whole, the rest of the request is not wanted (RFC 9113, section 8.1)."""
    return _RST_HEAD + _u32(stream) + b"\0\0\0\0"


def error_trailers(
    stream: int, code: int, text: str, *, alone: bool, extra: tuple[tuple[bytes, bytes], ...] = ()
) -> bytes:
    """HEADERS that end a call with a status. `alone`: nothing was sent before (Trailers-Only)."""
    block = REPLY_HEADERS if alone else b""
    block += _literal(b"grpc-status", str(code).encode())
    if text:
        # gRPC over HTTP/2, "Status-Message": percent-encoded UTF-8.
        block += _literal(b"grpc-message", quote(text[:1024], safe=" !#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode())
    for name, value in extra:
        block += _literal(name, value)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def plain_headers(stream: int, status: bytes) -> bytes:
    """HEADERS of a plain HTTP answer, for what is no gRPC at all."""
    return frame(HEADERS, END_HEADERS, stream, _literal(b":status", status) + _literal(b"content-type", b"text/plain"))
