"""What `models.NAME.cache.semantic` says (docs/cache.md)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from sidecar.settings import Section, read_size


class SemanticSettings(Section):
    """Answers by meaning. `threshold` and `scope` must be written out: nobody gets them by accident."""

    threshold: float = Field(gt=0, le=1, description="cosine from which two questions count as one")
    scope: Literal["key", "team", "shared"] = Field(description="who shares answers so; never wider than the cache's")
    embeddings: str = Field(description="the configured model that makes the vectors")
    dimensions: int | None = Field(default=None, ge=1, le=32_768, description="asked for; empty: as many as it gives")
    ttl: int | None = Field(default=None, ge=1, description="seconds; empty: the cache's")
    timeout: float = Field(default=0.3, ge=0.01, le=10, description="seconds that a vector is waited for")
    allow_tools: bool = Field(default=False, description="also requests with tools")
    max_text: Annotated[int, BeforeValidator(read_size), Field(ge=1, le=1 << 20)] = 8192
    max_entries: int = Field(default=10_000, ge=1, le=10_000_000, description="questions that differ in the text alone")
