"""An answer as it passes by: what of it was seen, and whether it is whole enough to be kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from extproc.cache.answer import STREAMS, WHOLE, Stream
from extproc.cache.events import EventReader
from extproc.cache.unfit import Reason, Unfit
from extproc.cache.usage import Usage

# Kept with the answer, besides its content-type: what says which model spoke. All else is of that one request (ids,
# cookies, rates, times) or of that one connection.
KEPT_HEADERS = ("openai-model", "openai-version")
JSON = "application/json"
EVENTS = "text/event-stream"
_LONGEST_VALUE = 256


class Captured(NamedTuple):
    """A whole answer, byte for byte."""

    content_type: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_stream: bool
    usage: Usage


@dataclass(frozen=True, slots=True)
class Discarded:
    """No answer to keep."""

    reason: Reason


class Capture:
    """Fed with one answer: its head, then its bytes cut anywhere, then its end. Never raises for what it is fed.

    Holds at most `max_bytes` of it (in one buffer: a list would cost many times the bytes that a provider may send one
    by one), and none once it is clear that it will not be kept. Every byte is looked at once. A provider's
    `cache-control` is passed over: common servers mark every stream with no-store, and the operator has asked for this.
    """

    __slots__ = ("_buffer", "_expected", "_headers", "_max", "_operation", "_reader", "_reason", "_stream", "_type")

    def __init__(self, operation: str, max_bytes: int) -> None:
        self._operation = operation
        self._max = max_bytes
        self._buffer: bytes | bytearray = b""
        self._reason: Reason | None = Reason.CUT  # until there is a head
        self._type = ""
        self._headers: tuple[tuple[str, str], ...] = ()
        self._expected: int | None = None
        self._reader: EventReader | None = None
        self._stream: Stream | None = None

    @property
    def reason(self) -> Reason | None:
        """Why the answer will not be kept; None while it may be."""
        return self._reason

    def head(self, status: int, headers: Mapping[str, tuple[bytes, ...]]) -> bool:
        """The status and the headers, names in lower case. False: the rest need not be fed."""
        self._reason = None
        try:
            self._read_head(status, headers)
        except Unfit as unfit:
            self._discard(unfit.reason)
        return self._reason is None

    def chunk(self, data: bytes) -> None:
        """The next bytes of the body."""
        if self._reason is not None or not data:
            return
        if len(self._buffer) + len(data) > self._max:
            self._discard(Reason.TOO_LARGE)
            return
        if not self._buffer:
            self._buffer = data  # most come in one piece
        else:
            if not isinstance(self._buffer, bytearray):
                self._buffer = bytearray(self._buffer)
            self._buffer += data
        if self._stream is None or self._reader is None:
            return
        try:
            for name, event in self._reader.feed(data):
                self._stream.event(name, event)
        except Unfit as unfit:
            self._discard(unfit.reason)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._discard(Reason.MALFORMED)

    def end(self) -> Captured | Discarded:
        """The answer has ended as HTTP sees it. To be called once."""
        if self._reason is None:
            try:
                return self._captured()
            except Unfit as unfit:
                self._discard(unfit.reason)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._discard(Reason.MALFORMED)
        assert self._reason is not None
        return Discarded(self._reason)

    def abandon(self) -> Captured | Discarded:
        """No end will be seen: the client went, or the provider broke off. A stream whose last event has come is whole
        all the same: clients go when they have seen it."""
        if self._reason is None and not (self._stream is not None and self._stream.complete):
            self._discard(Reason.CUT)
        return self.end()

    def _discard(self, reason: Reason) -> None:
        self._reason = reason
        self._buffer = b""
        self._stream = self._reader = None

    def _read_head(self, status: int, headers: Mapping[str, tuple[bytes, ...]]) -> None:
        if status != 200:
            raise Unfit(Reason.STATUS)
        encodings = headers.get("content-encoding", ())
        if encodings and any(value.strip().lower() not in (b"", b"identity") for value in encodings):
            raise Unfit(Reason.ENCODED)
        self._type = _one(headers, "content-type")
        kind = self._type.partition(";")[0].strip().lower()
        if kind == EVENTS and self._operation in STREAMS:
            self._stream = STREAMS[self._operation]()
            self._reader = EventReader()
        elif kind != JSON or self._operation not in WHOLE:
            raise Unfit(Reason.TYPE)
        if "content-length" in headers:
            length = _one(headers, "content-length")
            if not (length.isdigit() and len(length) < 16):
                raise Unfit(Reason.MALFORMED)
            self._expected = int(length)
            if self._expected > self._max:
                raise Unfit(Reason.TOO_LARGE)
        found = [(name, _one(headers, name)) for name in KEPT_HEADERS if name in headers]
        self._headers = tuple([one for one in found if one[1]])

    def _captured(self) -> Captured:
        body = bytes(self._buffer)
        self._buffer = b""
        if self._expected is not None and len(body) != self._expected:
            raise Unfit(Reason.CUT)
        if self._stream is not None and self._reader is not None:
            if not (self._stream.complete and self._reader.between):
                raise Unfit(Reason.CUT)
            usage = self._stream.usage
        else:
            usage = WHOLE[self._operation](body)
        if not body.isascii():
            body.decode()  # what is passed over by the decoders is text, too
        captured = Captured(self._type, self._headers, body, self._stream is not None, usage.summed())
        self._discard(Reason.CUT)  # nothing more comes of it
        return captured


def _one(headers: Mapping[str, tuple[bytes, ...]], name: str) -> str:
    """The value of a header, empty when it is absent, stands more than once with different values, or is no plain
    text."""
    values = headers.get(name, ())
    value = values[0].decode("latin-1").strip() if values and values.count(values[0]) == len(values) else ""
    return value if value.isascii() and value.isprintable() and len(value) <= _LONGEST_VALUE else ""
