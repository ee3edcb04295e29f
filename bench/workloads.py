"""Kinds of requests, as the exact bytes that the generator sends."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from bench.loadgen import Target

MODEL = "bench"
KEY = "sk-bench"
CHUNKS = 50  # what the provider sends when it is not told otherwise
PROMPT = "word " * 400  # about 2 KB
_FRAME_EVENTS = 4  # the first with the role, the last with the reason, the usage, [DONE]


def key(index: int) -> str:
    """The gateway key of this number; the first is `KEY`."""
    return KEY if index == 0 else f"{KEY}-{index}"


def digest(secret: str) -> str:
    """What a configuration holds of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request. `chunk_delay_ms` parts a stream's chunks; `rate` (requests/s) paces what cannot saturate.

    `keys` is how many gateway keys take turns.
    """

    name: str
    stream: bool = False
    chunks: int = CHUNKS
    chunk_delay_ms: int = 0
    rate: float = 0.0
    keys: int = 1

    @property
    def events(self) -> int:
        """Server-sent events of a whole answer."""
        return self.chunks + _FRAME_EVENTS if self.stream else 0

    def target(self, port: int, *, model: str = MODEL, secrets: tuple[str, ...] = ()) -> Target:
        """The requests, for a gateway on `port`. `secrets` replaces the keys."""
        chosen = secrets or tuple(key(index) for index in range(self.keys))
        return Target("127.0.0.1", port, tuple(self._request(port, model, one) for one in chosen), self.events)

    def _request(self, port: int, model: str, secret: str) -> bytes:
        body = {
            "model": model,
            "max_tokens": 100,
            "stream": self.stream,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        raw = json.dumps(body).encode()
        lines = [
            "POST /v1/chat/completions HTTP/1.1",
            f"host: 127.0.0.1:{port}",
            f"authorization: Bearer {secret}",
            "content-type: application/json",
            f"content-length: {len(raw)}",
        ]
        directive = self._directive()
        if directive:
            lines.append(f"x-fake: {directive}")
        return "\r\n".join([*lines, "", ""]).encode() + raw

    def _directive(self) -> str:
        """What the fake provider is told beyond its defaults."""
        parts = []
        if self.chunks != CHUNKS:
            parts.append(f"chunks={self.chunks}")
        if self.chunk_delay_ms:
            parts.append(f"chunk_delay_ms={self.chunk_delay_ms}")
        return ",".join(parts)


JSON = Workload("JSON, 2 KB request")
BURST_50 = Workload("50 chunks at once", stream=True)
BURST_500 = Workload("500 chunks at once", stream=True, chunks=500)
