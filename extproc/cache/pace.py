"""A kept stream as it falls due, when it is to look like one that is being written."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable

# The blank line behind an event. Where another is meant, pieces are cut elsewhere, and the bytes are the same.
_BLANK = re.compile(rb"\r\n\r\n|\n\r?\n|\r\r")
SHORTEST_PAUSE = 0.01  # seconds: events that fall due within it are sent together


def events(body: bytes) -> list[bytes]:
    """The events of a stream, each with its blank line, and what stands behind the last one. Joined they are `body`."""
    found, start = [], 0
    for blank in _BLANK.finditer(body):
        found.append(body[start : blank.end()])
        start = blank.end()
    return [*found, body[start:]] if start < len(body) else found


async def paced(
    body: bytes,
    per_second: float,
    clock: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
) -> AsyncIterator[tuple[bytes, bool]]:
    """Pieces of `body`, and whether each is the last: `per_second` events in a second, the first at once.

    `clock` is in seconds. Whoever takes the pieces late is given all that has fallen due meanwhile, so the stream is
    over in time. At least one piece comes, which may be empty.
    """
    left = events(body)
    started, sent = clock(), 0
    while True:
        # A sleep may end a hair early.
        due = min(len(left), max(sent + 1, int((clock() - started) * per_second + 0.5) + 1))
        ends = due >= len(left)
        yield b"".join(left[sent:due]), ends
        if ends:
            return
        sent = due
        await sleep(max(SHORTEST_PAUSE, started + due / per_second - clock()))
