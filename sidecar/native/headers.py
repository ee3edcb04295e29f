"""Header blocks to requests (RFC 9113, section 8; RFC 7541; gRPC over HTTP/2, "Requests").

A peer like Envoy sends the same block for every call, so decoded blocks are kept by their bytes. That is exact only
while HPACK's dynamic table stands still: any change of it empties the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from hpack import Decoder, HPACKError

from sidecar.native.errors import ConnectionFault, ErrorCode
from sidecar.native.limits import Limits
from sidecar.rpc import CallContext, StreamMethod, UnaryMethod

Methods: TypeAlias = Mapping[str, UnaryMethod | StreamMethod]

ENCODINGS = ("identity", "gzip")
_CACHED_BLOCKS = 256
_CACHED_BYTES = 4_096  # a larger block is decoded each time
_TIMEOUT_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))


@dataclass(frozen=True, slots=True)
class Request:
    """What a header block asks for. Read-only: it may be shared by many calls.

    `length` is the content-length, if it was given. `malformed` names the broken rule (RFC 9113, section 8.1.1),
    `http_status` an HTTP answer for what is no gRPC. `method` serves it; `unary` or `streaming` is the same method, set
    only when the request is in every way a plain one, so that nothing of it needs a look before its call begins, but
    the `length` of a unary one.
    """

    context: CallContext
    method: UnaryMethod | StreamMethod | None = None
    unary: UnaryMethod | None = None
    streaming: StreamMethod | None = None
    encoding: str = "identity"
    timeout: float | None = None
    length: int | None = None
    malformed: str = ""
    http_status: bytes = b""


class HeaderBlocks:
    """The decoder of one connection. `known` holds the requests of blocks that need no decoding now."""

    __slots__ = ("_decoder", "_methods", "_state", "known")

    def __init__(self, limits: Limits, methods: Methods) -> None:
        self._methods = methods
        self._decoder = Decoder(max_header_list_size=limits.max_header_list)
        self.known: dict[bytes, Request] = {}
        self._state = self._table_state()

    def request(self, block: bytes) -> Request:
        """The request of a block. Raises `ConnectionFault` when the block cannot be decoded (section 4.3)."""
        found = self.known.get(block)
        if found is None:
            found = read_request(self._decode(block), self._methods)
            # A block that begins with a table size update must reach the decoder each time.
            if self._unchanged() and len(block) <= _CACHED_BYTES and block[:1] and not 0x20 <= block[0] < 0x40:
                if len(self.known) >= _CACHED_BLOCKS:
                    self.known.clear()
                self.known[block] = found
        return found

    def trailers(self, block: bytes) -> str:
        """Decode a client's trailers. Returns the broken rule, or nothing."""
        fields = self._decode(block)
        self._unchanged()
        if any(name.startswith(b":") for name, _ in fields):
            return "a pseudo-header field in trailers (8.1)"
        return "" if all(_is_field_name(name) for name, _ in fields) else "a field name that is none (8.2.1)"

    def skip(self, block: bytes) -> None:
        """Decode a block whose stream is refused: the table must not get out of step."""
        self._decode(block)
        self._unchanged()

    def _decode(self, block: bytes) -> list[tuple[bytes, bytes]]:
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"a header block cannot be decoded: {error}") from error

    def _table_state(self) -> tuple[int, int, object]:
        table = self._decoder.header_table
        entries = table.dynamic_entries
        return (table._current_size, table.maxsize, entries[0] if entries else None)

    def _unchanged(self) -> bool:
        now = self._table_state()
        before, self._state = self._state, now
        if now[0] == before[0] and now[1] == before[1] and now[2] is before[2]:
            return True
        self.known.clear()
        return False


def _is_field_name(name: bytes) -> bool:
    """Section 8.2.1: no upper case, no control characters or spaces, nothing beyond ASCII, no colon but the first."""
    return bool(name) and all(0x20 < byte < 0x7F and not 0x41 <= byte <= 0x5A for byte in name) and b":" not in name[1:]


def read_request(fields: list[tuple[bytes, bytes]], methods: Methods) -> Request:
    """Check a request's fields (sections 8.2 and 8.3), take what gRPC needs of them, and find its method."""
    pseudo: dict[bytes, bytes] = {}
    metadata: dict[str, str] = {}
    regular = False
    for name, value in fields:
        if not _is_field_name(name):
            return _malformed("a field name that is none (8.2.1)")
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _PSEUDO:
                return _malformed("a pseudo-header field that is late, repeated or unknown (8.3)")
            pseudo[name] = value
            continue
        regular = True
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            return _malformed("a connection-specific field (8.2.2)")
        if (
            b"\0" in value
            or b"\r" in value
            or b"\n" in value
            or value[:1] in (b" ", b"\t")
            or value[-1:] in (b" ", b"\t")
        ):
            return _malformed("a field value that is none (8.2.1)")
        key = name.decode("ascii")
        text = value.decode("latin-1")
        metadata[key] = f"{metadata[key]},{text}" if key in metadata else text
    if not pseudo.get(b":path") or b":scheme" not in pseudo or b":method" not in pseudo:
        return _malformed("a request without :method, :scheme or :path (8.3.1)")
    return _grpc_request(pseudo, metadata, methods)


def _malformed(rule: str) -> Request:
    return Request(CallContext(""), malformed=rule)


def _grpc_request(pseudo: Mapping[bytes, bytes], metadata: dict[str, str], methods: Methods) -> Request:
    context = CallContext(pseudo[b":path"].decode("latin-1"), MappingProxyType(metadata))
    given = metadata.get("content-length")
    if given is not None and not (given.isascii() and given.isdigit() and len(given) <= 18):
        return _malformed("a content-length that is no number (8.1.1)")
    length = None if given is None else int(given)
    if pseudo[b":method"] != b"POST":
        return Request(context, length=length, http_status=b"405")
    kind = metadata.get("content-type", "")
    if not (kind == "application/grpc" or kind.startswith(("application/grpc+", "application/grpc;"))):
        return Request(context, length=length, http_status=b"415")
    encoding = metadata.get("grpc-encoding", "identity")
    method = methods.get(context.path)
    known = encoding in ENCODINGS
    return Request(
        context,
        method,
        unary=method if known and isinstance(method, UnaryMethod) else None,
        streaming=method if known and length is None and isinstance(method, StreamMethod) else None,
        encoding=encoding,
        timeout=_timeout(metadata.get("grpc-timeout")),
        length=length,
    )


def _timeout(text: str | None) -> float | None:
    """Seconds of a `grpc-timeout` (at most eight digits and a unit); None when there is none that can be read."""
    if not text or len(text) > 9 or text[-1] not in _TIMEOUT_UNITS or not (text[:-1].isascii() and text[:-1].isdigit()):
        return None
    return int(text[:-1]) * _TIMEOUT_UNITS[text[-1]]
