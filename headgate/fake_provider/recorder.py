"""What the fake provider received."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

_KEPT = 10_000
_KEPT_BYTES = 256 << 20
_SHOWN = 65_536


@dataclass(slots=True)
class Received:
    """One request as it arrived; `disconnected` when the client left before the answer was out."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    disconnected: bool = False
    chunks_sent: int = 0
    messages: list[str] = field(default_factory=list)  # of a WebSocket

    def header(self, name: str) -> str | None:
        """The first value of a header, None when it is absent."""
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Recorder:
    """The last requests, oldest first."""

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self._received: deque[Received] = deque()
        self._bytes = 0

    def add(self, received: Received) -> None:
        """Keep one."""
        if not self.on:
            return
        self._received.append(received)
        self._bytes += len(received.body)
        while len(self._received) > _KEPT or (self._bytes > _KEPT_BYTES and len(self._received) > 1):
            self._bytes -= len(self._received.popleft().body)

    def clear(self) -> None:
        """Forget all."""
        self._received.clear()
        self._bytes = 0

    def __iter__(self) -> Iterator[Received]:
        return iter(tuple(self._received))

    def __len__(self) -> int:
        return len(self._received)

    def __getitem__(self, index: int) -> Received:
        return self._received[index]

    def as_json(self) -> bytes:
        """All of them, bodies as text."""
        return msgspec.json.encode(
            [
                {
                    "method": one.method,
                    "path": one.path,
                    "headers": one.headers,
                    "body": one.body[:_SHOWN].decode("utf-8", "replace"),
                    "disconnected": one.disconnected,
                    "messages": one.messages,
                }
                for one in self
            ]
        )
