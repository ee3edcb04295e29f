"""Kinds of requests, as the exact bytes that the generator sends."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    """One kind of request, and how it is measured.

    `chunk_delay_ms` parts a stream's chunks. `keys` is how many gateway keys take turns. `saturate` keeps every
    connection busy; `rate` (requests/s, 0: not) is what it is also paced at.
    """

    name: str
    stream: bool = False
    chunks: int = CHUNKS
    chunk_delay_ms: int = 0
    keys: int = 1
    saturate: bool = True
    rate: float = 0.0
    method: str = "POST"
    path: str = "/v1/chat/completions"

    @property
    def events(self) -> int:
        """Server-sent events of a whole answer."""
        return self.chunks + _FRAME_EVENTS if self.stream else 0

    @property
    def paced_connections(self) -> int:
        """Enough that a request finds a free one at `rate`, even when answers take half again as long."""
        answer = 0.05 + self.events * self.chunk_delay_ms / 1000
        return max(16, int(self.rate * answer * 1.5))

    def target(self, port: int, *, model: str = MODEL, headers: Sequence[str] = ()) -> Target:
        """The requests for a gateway on `port`. `headers` (whole lines) replace the gateway key's."""
        if headers:
            requests = [self._request(port, model, headers)]
        else:
            secrets = (key(index) for index in range(self.keys))
            requests = [self._request(port, model, (f"authorization: Bearer {one}",)) for one in secrets]
        return Target("127.0.0.1", port, tuple(requests), self.events)

    def _request(self, port: int, model: str, headers: Sequence[str]) -> bytes:
        raw = self.body(model)
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: 127.0.0.1:{port}", *headers]
        if raw:
            lines += ["content-type: application/json", f"content-length: {len(raw)}"]
        directive = self._directive()
        if directive:
            lines.append(f"x-fake: {directive}")
        return "\r\n".join([*lines, "", ""]).encode() + raw

    def body(self, model: str) -> bytes:
        """What is posted; empty for a GET."""
        if self.method == "GET":
            return b""
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": 100,
            "stream": self.stream,
            "messages": [{"role": "user", "content": PROMPT}],
        }
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        return json.dumps(body, separators=(",", ":")).encode()

    def _directive(self) -> str:
        """What the fake provider is told beyond its defaults."""
        parts = []
        if self.chunks != CHUNKS:
            parts.append(f"chunks={self.chunks}")
        if self.chunk_delay_ms:
            parts.append(f"chunk_delay_ms={self.chunk_delay_ms}")
        return ",".join(parts)


RATE = 200.0  # requests/s at which added time is measured: no arm is near its limit there
JSON = Workload("JSON, 2 KB request", rate=RATE)
BURST_50 = Workload("50 chunks at once", stream=True, rate=RATE)
BURST_500 = Workload("500 chunks at once", stream=True, chunks=500)
