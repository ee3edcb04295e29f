"""Requests for embeddings and what comes back (https://platform.openai.com/docs/api-reference/embeddings)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import msgspec

from extproc.semantic.rules import Embeddings

_MOST = 32_768  # dimensions that a vector set takes


class NoVectorError(Exception):
    """The answer holds no vector that can be compared."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A vector as Redis takes it (32-bit floats, little endian), and the tokens that it took."""

    vector: bytes
    tokens: int

    @property
    def dimensions(self) -> int:
        """How many numbers it has."""
        return len(self.vector) // 4


class _Item(msgspec.Struct):
    embedding: list[float]


class _Usage(msgspec.Struct):
    total_tokens: int = 0


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


_ANSWER = msgspec.json.Decoder(_Answer)


def request_body(embeddings: Embeddings, text: str) -> bytes:
    """The body that asks for the vector of `text`."""
    fields: dict[str, str | int] = {"model": embeddings.name, "input": text}
    if embeddings.dimensions is not None:
        fields["dimensions"] = embeddings.dimensions
    return msgspec.json.encode(fields)


def read(body: bytes, dimensions: int | None = None) -> Embedded:
    """The first vector. Raises `NoVectorError` for what is none, has no direction, or other than `dimensions`."""
    try:
        answer = _ANSWER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoVectorError(f"no embeddings: {error}") from None
    values = answer.data[0].embedding if answer.data else []
    if not 0 < len(values) <= _MOST or (dimensions is not None and len(values) != dimensions):
        raise NoVectorError(f"{len(values)} dimensions, not {dimensions or f'1 to {_MOST}'}")
    try:
        vector = struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        raise NoVectorError("a number is too large") from None
    length = math.fsum(value * value for value in values)
    if not math.isfinite(length) or length <= 0:
        raise NoVectorError("a vector without direction")
    return Embedded(vector, max(0, answer.usage.total_tokens) if answer.usage is not None else 0)
