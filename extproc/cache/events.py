"""Server-sent events out of bytes (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from extproc.cache.unfit import Reason, Unfit

_BOM = b"\xef\xbb\xbf"
_FIELDS = frozenset({b"data", b"event", b"id", b"retry"})


class EventReader:
    """Takes bytes cut anywhere and gives whole events. Every byte is looked at once.

    Stricter than a browser: a line of another field, or one with a carriage return inside, raises `Unfit`. Both are
    signs of something that is no stream, such as an error page in its middle.
    """

    __slots__ = ("_data", "_first", "_line", "_name")

    def __init__(self) -> None:
        self._line = bytearray()  # begun, not ended
        self._data: list[bytes] = []
        self._name = b""
        self._first = True

    @property
    def between(self) -> bool:
        """Whether no event has begun that has not ended."""
        return not self._line and not self._data and not self._name

    def feed(self, piece: bytes) -> list[tuple[bytes, bytes]]:
        """The events that end in this piece: name and data of each."""
        events: list[tuple[bytes, bytes]] = []
        head, *lines = piece.split(b"\n")
        self._line += head
        if not lines:
            return events
        self._take(bytes(self._line), events)
        rest = lines.pop()
        for line in lines:
            self._take(line, events)
        self._line = bytearray(rest)
        return events

    def _take(self, line: bytes, events: list[tuple[bytes, bytes]]) -> None:
        if self._first:
            self._first = False
            line = line.removeprefix(_BOM)
        if line.endswith(b"\r"):
            line = line[:-1]
        if not line:
            if self._data:
                events.append((self._name, b"\n".join(self._data)))
            self._data, self._name = [], b""
            return
        field, _, value = line.partition(b":")
        if b"\r" in line or (field and field not in _FIELDS):
            raise Unfit(Reason.MALFORMED)
        value = value.removeprefix(b" ")
        if field == b"data":  # without a field it is a comment
            self._data.append(value)
        elif field == b"event":
            self._name = value
