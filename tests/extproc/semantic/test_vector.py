"""Embeddings as they are asked for, and what of the answers can be compared."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from extproc.semantic.rules import Embeddings
from extproc.semantic.vector import Embedded, NoVectorError, read, request_body

EMBEDDINGS = Embeddings("e", "e@1", "/v1/embeddings", "text-embedding-3-small", ("p",))


def body(*values: Any, **more: Any) -> bytes:
    return json.dumps({"data": [{"embedding": list(values), "index": 0}], **more}).encode()


def test_the_request() -> None:
    assert json.loads(request_body(EMBEDDINGS, "Hi “you”")) == {"model": "text-embedding-3-small", "input": "Hi “you”"}
    sized = Embeddings("e", "e@1", "/v1/embeddings", "x", (), 64)
    assert json.loads(request_body(sized, "Hi"))["dimensions"] == 64


def test_the_answer() -> None:
    found = read(body(1, 0.5, -2, usage={"prompt_tokens": 3, "total_tokens": 3}))
    assert found == Embedded(struct.pack("<3f", 1, 0.5, -2), 3)
    assert found.dimensions == 3
    assert read(body(1, 2)).tokens == 0
    assert read(body(1, 2, usage=None)).tokens == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'{"data": []}',
        b'{"data": [{"embedding": "AACAPw=="}]}',
        b'{"data": [{"embedding": []}]}',
        body(0, 0),
        body(1e39, 1),
        body(None),
        body(True),
        b'{"data": [{"embedding": [NaN]}]}',
        body(1, 2, 3),
        body(1e-300, 1e-300),
    ],
)
def test_what_is_no_vector(raw: bytes) -> None:
    with pytest.raises(NoVectorError):
        read(raw, 2)
