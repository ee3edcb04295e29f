"""`attempt.lua` once more, in Python: what Envoy makes of a request for an attempt after the first."""

from __future__ import annotations

import re
from collections.abc import Sequence


def _replaced(piece: bytes, at: int, start: int, length: int, text: bytes) -> bytes:
    begin, end = start - at, start + length - at
    before, after = piece[: max(begin, 0)], piece[max(end, 0) :]
    return before + text + after if 0 <= begin < len(piece) else before + after


def later_attempt(plan: str, number: int, chunks: Sequence[bytes]) -> tuple[str, int | None, bytes]:
    """The path, the content-length (None: as it was) and the body of the attempt `number`, counted from 1.

    `chunks` is the first attempt's body, cut anywhere.
    """
    head, *lines = [line for line in plan.split("\n") if line]
    start, length, size = (int(part) for part in re.fullmatch(r"(\d+) (\d+) (\d+)", head).groups())  # type: ignore[union-attr]
    path, tab, piece = lines[number - 2].partition("\t")
    assert tab
    body = b"".join(chunks)
    if size == 0:
        return path, None, body
    text, at, out = piece.encode(), 0, []
    for chunk in chunks:
        if at < start + length and start < at + len(chunk):
            out.append(_replaced(chunk, at, start, length, text))
        else:
            out.append(chunk)
        at += len(chunk)
    return path, size - length + len(text), b"".join(out)
