"""A semantic cache over embedded parts: an index that compares every vector, and an embedder with a dictionary."""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from extproc.cache.cache import Found, Missed, Outcome
from extproc.cache.capture import Captured
from extproc.cache.key import make_key
from extproc.cache.rules import CacheRules
from extproc.semantic.cache import Learner, SemanticCache
from extproc.semantic.embedder import EmbeddingError
from extproc.semantic.index import Near
from extproc.semantic.question import SemanticQuestion
from extproc.semantic.rules import Embeddings, SemanticRules
from extproc.semantic.vector import Embedded
from sidecar.errors import StoreError
from tests.extproc.cache.test_cache import House, answer

EMBEDDINGS = Embeddings("embedder", "embedder@1", "/v1/embeddings", "te3", ("p", "te3"))


def pack(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


class ExactIndex:
    """Every vector is compared."""

    def __init__(self) -> None:
        self.places: dict[bytes, dict[bytes, tuple[bytes, float]]] = {}
        self.fails = False
        self.searches = 0

    async def search(self, place: bytes, vector: bytes, now: float) -> Sequence[Near]:
        self.searches += 1
        await asyncio.sleep(0)
        if self.fails:
            raise StoreError("down", transient=True)
        held = self.places.get(place, {})
        found = [Near(key, cosine(vector, other)) for key, (other, until) in held.items() if until > now]
        return sorted(found, key=lambda near: -near.similarity)[:4]

    async def add(self, place: bytes, vector: bytes, key: bytes, now: float, ttl: float, most: int) -> None:
        if self.fails:
            raise StoreError("down", transient=True)
        self.places.setdefault(place, {})[key] = (vector, now + ttl)

    async def remove(self, place: bytes, key: bytes) -> None:
        self.places[place].pop(key, None)


def cosine(one: bytes, other: bytes) -> float:
    a, b = (struct.unpack(f"<{len(raw) // 4}f", raw) for raw in (one, other))
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b))


class Dictionary:
    """Texts whose vectors are known; all others fail."""

    def __init__(self) -> None:
        self.vectors: dict[str, bytes] = {
            "lock": pack(1, 0), "mutex": pack(0.99, 0.05), "duck": pack(0, 1), "half": pack(1, 1), "bolt": pack(1, 0)
        }  # fmt: skip
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None

    async def embed(self, embeddings: Embeddings, text: str, seconds: float) -> Embedded:
        self.asked.append(text)
        if self.gate is not None:
            await self.gate.wait()
        if text not in self.vectors:
            raise EmbeddingError("timeout", "late")
        return Embedded(self.vectors[text], 1)


class SemanticHouse:
    """The parts together; `told` is what is observed of the semantic part."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.index = ExactIndex()
        self.embedder = Dictionary()
        self.exact = House()
        self.learner = Learner(self.exact.seen, self, self.index, self.exact.clock)
        self.exact.cache._observer = self.learner
        self.cache = SemanticCache(
            self.exact.cache, self.exact.store, self.embedder, self.index, self, self.exact.clock, self.exact.clock
        )

    def semantic_asked(self, model: str, result: str, reason: str, seconds: float) -> None:
        self.told.append(f"{result} {reason}".strip())

    def semantic_saved(self, model: str, tokens: int, cost: float | None) -> None:
        self.told.append(f"saved {tokens}")

    def semantic_failed(self, error: Exception) -> None:
        self.told.append("failed")

    async def asks(self, text: str, **how: Any) -> Outcome:
        outcome = self.cache.ask(question(text, **how))
        return outcome if isinstance(outcome, Found | Missed) else await outcome

    async def keeps(self, text: str, body: bytes = b"{}", **how: Any) -> None:
        """Ask, get an answer, and have it kept."""
        outcome = await self.asks(text, **how)
        assert isinstance(outcome, Missed), outcome
        await self.ends(outcome.ticket, answer(body))

    async def ends(self, ticket: str, captured: Captured) -> None:
        kept = self.exact.cache.keep(ticket, captured)
        if isinstance(kept, Awaitable):
            await kept
        await self.learner.settled()


def question(
    text: str,
    *,
    tenant: str = "a",
    scope: Any = "key",
    exact_tenant: str = "",
    model: str = "m",
    marks: tuple[str, ...] = (),
    salt: bytes = b"",
    read: bool = True,
    only: bool = False,
    max_age: int | None = None,
    rules: Any = None,
    **fields: Any,
) -> SemanticQuestion:
    """A question as the filter writes it."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    canonical = msgspec.json.encode(body, order="sorted")
    exact = exact_tenant or tenant
    key = make_key("key", exact, "chat.completions", model, canonical, marks, salt)
    semantic = SemanticRules(**{"threshold": 0.9, "scope": scope, "embeddings": EMBEDDINGS, "ttl": 50, **(rules or {})})
    kept = CacheRules(ttl=100)
    return SemanticQuestion(
        key, "chat.completions", kept, read, max_age, only,
        semantic=semantic, canonical=canonical, tenant=tenant, marks=marks, salt=salt,
    )  # fmt: skip
