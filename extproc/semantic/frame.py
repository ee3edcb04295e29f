"""A request as its last user message's text, and the frame around it: everything else.

Two requests may share an answer only when their frames are equal, byte for byte: the model, every parameter, the system
prompt, earlier turns; and so must the numbers in the text be, which vectors hardly tell apart. Only the rest of the
text is compared by meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

# As in `extproc.cache.canonical`: floats stay as they are written.
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=msgspec.Raw)
_ENCODER = msgspec.json.Encoder(order="sorted")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


class Unfit(StrEnum):
    """Why a request is not compared by meaning. Labels of metrics."""

    OPERATION = "operation"  # neither chat completions nor responses
    TEXT = "text"  # the last message is not a user's, or not plain text alone
    TOO_LONG = "too_long"
    TOOLS = "tools"


@dataclass(frozen=True, slots=True)
class Framed:
    """`text` as the client wrote it; `frame` is the canonical body without it."""

    text: str
    frame: bytes

    @property
    def numbers(self) -> tuple[str, ...]:
        """As `numbers` has them."""
        return numbers(self.text)


def numbers(text: str) -> tuple[str, ...]:
    """The numbers of a text in their order, as they are written: two texts with others are never near."""
    return tuple(_NUMBER.findall(text))


def read(operation: str, canonical: bytes, *, allow_tools: bool, max_text: int) -> Framed | Unfit:
    """Take a canonical body (`extproc.cache.canonical`) apart. `max_text` is in bytes of UTF-8."""
    if operation not in ("chat.completions", "responses"):
        return Unfit.OPERATION
    body = _DECODER.decode(canonical)
    if not allow_tools and (body.get("tools") or body.get("functions")):
        return Unfit.TOOLS
    text = _taken(body) if operation == "chat.completions" else _taken_input(body)
    if text is None or not text.strip():
        return Unfit.TEXT
    if len(text.encode()) > max_text:
        return Unfit.TOO_LONG
    return Framed(text, _ENCODER.encode(body))


def _taken(body: dict[str, Any]) -> str | None:
    """The last message's text, which leaves null behind; no message that has a frame says null."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user" or not isinstance(last.get("content"), str):
        return None
    text: str = last["content"]
    last["content"] = None
    return text


def _taken_input(body: dict[str, Any]) -> str | None:
    """The input of a response where it is one text."""
    text = body.get("input")
    if not isinstance(text, str):
        return None
    body["input"] = None
    return text
