"""One realtime session over a WebSocket (RFC 6455), without sockets: bytes in, bytes out."""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct
from collections.abc import Iterator

from headgate.fake_provider.answer import encode, words
from headgate.fake_provider.behaviour import Behaviour
from headgate.fake_provider.recorder import Received

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_MAX_FRAME = 1 << 24


def is_handshake(received: Received) -> bool:
    """Whether a request opens a WebSocket."""
    if received.method != "GET" or received.header("sec-websocket-key") is None:
        return False
    return (received.header("upgrade") or "").lower() == "websocket"


def accepted(received: Received) -> tuple[tuple[str, str], ...]:
    """The headers that accept a handshake, with the subprotocol `realtime` where it is offered."""
    key = received.header("sec-websocket-key") or ""
    accept = base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()
    headers = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-accept", accept)]
    offered = [one.strip() for one in (received.header("sec-websocket-protocol") or "").split(",")]
    if "realtime" in offered:
        headers.append(("sec-websocket-protocol", "realtime"))
    return tuple(headers)


class Realtime:
    """Answers each text message with its words and a usage.

    `ended`: the connection closes once all is sent. `cut`: it is reset instead, in the middle of an answer.
    """

    def __init__(self, received: Received, behaviour: Behaviour) -> None:
        self.ended = False
        self.cut = False
        self._received = received
        self._behaviour = behaviour
        self._buffer = bytearray()
        self._message: list[bytes] = []
        self._kind = _TEXT
        self._number = itertools.count(1)

    def feed(self, data: bytes) -> bytes:
        """What to send in answer to these bytes."""
        self._buffer += data
        out: list[bytes] = []
        while not (self.ended or self.cut) and (taken := self._take()) is not None:
            out += self._frame(*taken)
        return b"".join(out)

    def _take(self) -> tuple[bool, int, bytes] | None:
        """The next whole frame: whether it is a message's last, its kind, its content."""
        held = self._buffer
        if len(held) < 2:
            return None
        size, start = held[1] & 0x7F, 2
        if size >= 126:
            width = 2 if size == 126 else 8
            start = 2 + width
            if len(held) < start:
                return None
            size = int.from_bytes(held[2:start], "big")
        if not held[1] & 0x80 or size > _MAX_FRAME:
            return True, _CLOSE, struct.pack("!H", 1009 if size > _MAX_FRAME else 1002)
        if len(held) < start + 4 + size:
            return None
        mask, content = bytes(held[start : start + 4]), bytes(held[start + 4 : start + 4 + size])
        last, kind = bool(held[0] & 0x80), held[0] & 0x0F
        del held[: start + 4 + size]
        key = (mask * (size // 4 + 1))[:size]
        return last, kind, (int.from_bytes(content, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")

    def _frame(self, last: bool, kind: int, content: bytes) -> Iterator[bytes]:
        if kind == _PING:
            yield frame(_PONG, content)
        elif kind == _CLOSE:
            self.ended = True
            yield frame(_CLOSE, content[:2])
        elif kind in (_TEXT, _BINARY, _CONTINUATION):
            self._kind = kind or self._kind
            self._message.append(content)
            if last:
                message, self._message = b"".join(self._message), []
                if self._kind == _TEXT:
                    yield from self._answer(message)

    def _answer(self, message: bytes) -> Iterator[bytes]:
        text = message.decode("utf-8", "replace")
        self._received.messages.append(text)
        number = next(self._number)
        place = {"response_id": f"resp_{number}", "item_id": f"item_{number}", "output_index": 0, "content_index": 0}
        said = words(self._behaviour)
        delta = {"type": "response.output_text.delta", "event_id": f"event_{2 * number - 1}", **place}
        yield frame(_TEXT, encode({**delta, "delta": "".join(said)}))
        if self._behaviour.reset == "body":
            self.cut = True
            return
        prompt = max(1, len(text.split()))
        done = self._behaviour.usage_tokens - prompt if self._behaviour.usage_tokens else len(said)
        usage = {
            "total_tokens": prompt + done, "input_tokens": prompt, "output_tokens": done,
            "input_token_details": {"text_tokens": prompt, "audio_tokens": 0, "cached_tokens": 0},
            "output_token_details": {"text_tokens": done, "audio_tokens": 0},
        }  # fmt: skip
        response: dict[str, object] = {
            "object": "realtime.response",
            "id": f"resp_{number}",
            "status": "completed",
            "output": [],
        }
        if self._behaviour.usage != "none":
            response["usage"] = usage
        yield frame(_TEXT, encode({"type": "response.done", "event_id": f"event_{2 * number}", "response": response}))
        if self._behaviour.close:
            self.ended = True
            yield frame(_CLOSE, struct.pack("!H", 1000))


def frame(kind: int, content: bytes) -> bytes:
    """A whole, unmasked frame, as a server sends it."""
    size = len(content)
    if size < 126:
        head = bytes((0x80 | kind, size))
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | kind, 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | kind, 127, size)
    return head + content
