"""What a model's semantic cache may do, and who makes its vectors."""

from __future__ import annotations

from dataclasses import dataclass

from extproc.cache.key import Scope


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A configured model that makes vectors, as Envoy's internal listener is asked for it.

    `marks` are what a vector depends on: vectors of different ones are never compared.
    """

    model: str  # as it is configured
    route: str  # Envoy's
    path: str
    name: str  # the provider's
    marks: tuple[str, ...]
    dimensions: int | None = None  # asked for, and required of the answer; None: as many as it gives


@dataclass(frozen=True, slots=True)
class SemanticRules:
    """`threshold` (a cosine, above 0 and at most 1) and `scope` have no defaults on purpose."""

    threshold: float
    scope: Scope
    embeddings: Embeddings
    ttl: int = 3600  # seconds that an answer may be found for
    timeout: float = 0.3  # seconds that a vector is waited for
    allow_tools: bool = False
    max_text: int = 8192  # bytes of the last message
    max_entries: int = 10_000  # questions with one frame (`frame.py`)
