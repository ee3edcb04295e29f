"""Messages out of bytes that are cut anywhere (gRPC over HTTP/2, "Length-Prefixed-Message")."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from sidecar.errors import RpcError, StatusCode
from sidecar.native import wire

_GZIP = zlib.MAX_WBITS | 16


class Assembler:
    """The bytes of one call's messages that are not whole yet."""

    __slots__ = ("_bytes", "_encoding", "_limit")

    def __init__(self, encoding: str, limit: int) -> None:
        self._bytes = bytearray()
        self._encoding = encoding
        self._limit = limit

    def __len__(self) -> int:
        """How many bytes wait for the rest of their message."""
        return len(self._bytes)

    def add(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole with `data`, decompressed.

        Raises `RpcError`: RESOURCE_EXHAUSTED as soon as a message is announced that is larger than the limit,
        INTERNAL for one that cannot be decompressed.
        """
        self._bytes += data
        while len(self._bytes) >= wire.MESSAGE_HEAD_SIZE:
            compressed, length = wire.read_message_head(self._bytes, 0)
            if length > self._limit:
                raise RpcError(
                    StatusCode.RESOURCE_EXHAUSTED,
                    f"a message of {length} bytes is larger than the limit of {self._limit}",
                )
            end = wire.MESSAGE_HEAD_SIZE + length
            if end > len(self._bytes):
                return
            yield self._take(compressed, end)

    def _take(self, compressed: int, end: int) -> bytes:
        """The message in front. It may be large, so it is copied once and nothing here holds on to it."""
        with memoryview(self._bytes) as view:
            payload = bytes(view[wire.MESSAGE_HEAD_SIZE : end])
        del self._bytes[:end]
        return decompress(compressed, payload, self._encoding, self._limit) if compressed else payload


def decompress(flag: int, payload: bytes, encoding: str, limit: int) -> bytes:
    """A compressed message in plain. Never takes more memory than `limit`, whatever it was made of.

    Raises `RpcError`: INTERNAL when it is not what it says (also for a flag without an encoding, as the specification
    asks), RESOURCE_EXHAUSTED when it is larger than `limit`.
    """
    if flag != 1 or encoding != "gzip":
        raise RpcError(StatusCode.INTERNAL, f"a compressed message in the encoding '{encoding}'")
    inflater = zlib.decompressobj(_GZIP)
    try:
        plain = inflater.decompress(payload, limit + 1)
    except zlib.error as error:
        raise RpcError(StatusCode.INTERNAL, "a compressed message cannot be decompressed") from error
    if len(plain) > limit:
        raise RpcError(
            StatusCode.RESOURCE_EXHAUSTED, f"a message is larger than the limit of {limit} when decompressed"
        )
    if not inflater.eof:
        raise RpcError(StatusCode.INTERNAL, "a compressed message is cut short")
    return plain
