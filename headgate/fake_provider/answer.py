"""An answer as pieces of bytes, and the dials that shape every answer alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from headgate.fake_provider.behaviour import Behaviour

encode = msgspec.json.Encoder().encode
CREATED = 1_700_000_000
WORDS = ("Hello", "from", "the", "fake", "provider,", "which", "makes", "up", "every", "word.")


@dataclass(frozen=True, slots=True)
class Answer:
    """A body (`pieces` has one), or the pieces of a stream, in order."""

    status: int
    content_type: str
    pieces: tuple[bytes, ...]
    stream: bool = False


def error(status: int, message: str, code: str | None = None) -> Answer:
    """OpenAI's error object."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return Answer(status, "application/json", (encode(body),))


def whole(value: dict[str, Any], behaviour: Behaviour) -> Answer:
    """A JSON answer, as the behaviour wants it."""
    if behaviour.usage == "none":
        value.pop("usage", None)
    elif behaviour.usage == "early" and "usage" in value:
        value = {"usage": value.pop("usage"), **value}
    elif behaviour.usage == "huge":
        value["padding"] = "x" * 100_000
    raw = encode(value)
    missing = behaviour.size - len(raw)
    if missing > 0:
        raw = encode({"padding": "x" * max(0, missing - 13), **value})
    return Answer(200, "application/json", (raw[: len(raw) // 2] if behaviour.broken else raw,))


def stream(events: list[bytes], behaviour: Behaviour) -> Answer:
    """Server-sent events, as the behaviour wants them."""
    if behaviour.broken:
        events[len(events) // 2] = b'data: {"id": "broken", "choi\n\ndata: ]}\n\n: what\n\nnonsense\n\n'
    if behaviour.newline == "crlf":
        events = [one.replace(b"\n", b"\r\n") for one in events]
    if behaviour.usage == "split":
        events = [piece for one in events for piece in (cut(one, 7) if b'usage":{' in one else [one])]
    if behaviour.split:
        events = cut(b"".join(events), behaviour.split)
    return Answer(200, "text/event-stream", tuple(events), stream=True)


def event(value: Any, behaviour: Behaviour, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + (b"data: " if behaviour.space else b"data:") + encode(value) + b"\n\n"


def words(behaviour: Behaviour) -> list[str]:
    """The words of an answer, each with the space before it."""
    count = max(0, behaviour.chunks)
    found = behaviour.text.split("+") if behaviour.text else [WORDS[index % len(WORDS)] for index in range(count)]
    return [word if index == 0 else f" {word}" for index, word in enumerate(found)]


def cut(raw: bytes, size: int) -> list[bytes]:
    """`raw` in pieces of `size`."""
    return [raw[start : start + size] for start in range(0, len(raw), size)]
