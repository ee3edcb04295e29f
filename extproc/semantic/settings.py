"""What `models.NAME.cache.semantic` says, and what may be wrong with it (docs/cache.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from sidecar.settings import Complaint, Section, read_size

if TYPE_CHECKING:
    from extproc.settings import ModelSettings, PolicySettings

_WIDTH = {"key": 0, "team": 1, "shared": 2}


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


def complaints(settings: PolicySettings) -> Iterator[Complaint]:
    """What single fields cannot see."""
    for name, model in settings.models.items():
        semantic = model.cache.semantic if model.cache is not None else None
        if model.cache is None or semantic is None:
            continue
        path = ("models", name, "cache", "semantic")
        if _WIDTH[semantic.scope] > _WIDTH[model.cache.scope]:
            what = f"'{semantic.scope}' is wider than the cache's scope, '{model.cache.scope}'"
            yield Complaint((*path, "scope"), what, "make it narrower, or widen the cache's with `cache.scope`")
        if semantic.ttl is not None and semantic.ttl > model.cache.ttl:
            mend = "make it shorter, or `cache.ttl` longer"
            yield Complaint((*path, "ttl"), f"answers are kept for {model.cache.ttl} seconds only", mend)
        wrong = _embeddings_complaint(settings, semantic.embeddings)
        if wrong is not None:
            yield Complaint((*path, "embeddings"), *wrong)


def _embeddings_complaint(settings: PolicySettings, name: str) -> tuple[str, str] | None:
    """What is wrong with the model that is to make vectors, and the mend."""
    model: ModelSettings | None = settings.models.get(name)
    if model is None:
        return f"there is no model '{name}'", f"models are: {', '.join(sorted(settings.models))}"
    if len(model.targets) > 1:
        return f"'{name}' has {len(model.targets)} targets, whose vectors cannot be compared", "name a model with one"
    provider = settings.providers.get(model.targets[0].provider)
    if provider is None:
        return None  # that is said elsewhere
    if provider.serves and "embeddings" not in provider.serves:
        return f"the provider of '{name}' does not serve embeddings", "name a model of one that does"
    if len({urlsplit(endpoint).path for endpoint in provider.endpoints}) > 1:
        return f"the endpoints of '{name}' have different paths", "name a model of a provider with one endpoint"
    return None
