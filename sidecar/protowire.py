"""Protobuf messages written as bytes (https://protobuf.dev/programming-guides/encoding/).

For replies whose parts hardly ever change: encoded once, joined per reply, they cost a fraction of filling a message
object. Field numbers come from the generated descriptors, so a reader need not know them.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from google.protobuf.message import Message

_VARINT, _BYTES = 0, 2
_double = struct.Struct("<d").pack
_SMALL = tuple(bytes((n,)) if n < 128 else bytes((n & 0x7F | 0x80, n >> 7)) for n in range(1 << 14))
# Two groups of seven bits that others follow.
_MORE = tuple(bytes((n & 0x7F | 0x80, n >> 7 | 0x80)) for n in range(1 << 14))
_HEADS = tuple(bytes((field << 3 | _BYTES,)) for field in range(16))


class Encoded:
    """A reply that is encoded already; an engine sends it like a message."""

    __slots__ = ("_payload",)

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def SerializeToString(self) -> bytes:  # noqa: N802 - the name that messages have
        """The bytes."""
        return self._payload


def number(message: type[Message], field: str) -> int:
    """The number of a field of a generated message."""
    return int(message.DESCRIPTOR.fields_by_name[field].number)


def varint(value: int) -> bytes:
    """An unsigned integer, below 2^64."""
    if value < 1 << 14:
        return _SMALL[value]
    if value < 1 << 28:
        return _MORE[value & 0x3FFF] + _SMALL[value >> 14]
    return _MORE[value & 0x3FFF] + varint(value >> 14)


def tag(field: int, kind: int = _BYTES) -> bytes:
    """What stands before a field's value."""
    return varint(field << 3 | kind)


def integer(field: int, value: int) -> bytes:
    """A field of an integer type; a default (0) is not written."""
    return tag(field, _VARINT) + varint(value) if value else b""


def piece(field: int, payload: bytes) -> bytes:
    """A field that holds a message, bytes or text."""
    size = len(payload)
    return (_HEADS[field] if field < 16 else tag(field)) + (_SMALL[size] if size < 1 << 14 else varint(size)) + payload


def head(field: int, size: int) -> bytes:
    """What stands before a field that holds `size` bytes."""
    return tag(field) + varint(size)


def read_head(payload: bytes, start: int) -> tuple[int, int, int] | None:
    """The field at `start` that holds bytes: its number, and where they begin and end; None when it is none."""
    kind, at = _read_varint(payload, start)
    size, at = _read_varint(payload, at)
    if kind & 7 != _BYTES or at < 0 or at + size > len(payload):
        return None
    return kind >> 3, at, at + size


def _read_varint(payload: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; -1 when it does not."""
    value = shift = 0
    while 0 <= at < len(payload) and shift < 64:
        byte = payload[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return 0, -1


# google.protobuf.Struct: fields (1) is a map of name (1) to Value (2); a Value is a number (2), text (3), a boolean (4)
# or a Struct (5).


@lru_cache(maxsize=4096)
def struct_text(name: str, value: str) -> bytes:
    """A Struct's field that holds text."""
    return piece(1, piece(1, name.encode()) + piece(2, piece(3, value.encode())))


@lru_cache(maxsize=256)
def struct_true(name: str) -> bytes:
    """A Struct's field that holds true."""
    return piece(1, piece(1, name.encode()) + piece(2, b"\x20\x01"))


@lru_cache(maxsize=256)
def _number_head(name: str) -> bytes:
    key = piece(1, name.encode())
    return b"\x0a" + varint(len(key) + 11) + key + b"\x12\x09\x11"


def struct_number(name: str, value: float) -> bytes:
    """A Struct's field that holds a number."""
    return _number_head(name) + _double(value)


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    return piece(1, name.encode())


def struct_of(name: str, fields: bytes) -> bytes:
    """A Struct's field that holds a Struct of `fields`."""
    inner = piece(5, fields)
    return piece(1, _name(name) + piece(2, inner))
