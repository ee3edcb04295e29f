"""What may be wrong with `models.NAME.cache.semantic` beside the rest of the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from extproc.settings import PolicySettings
from sidecar.settings import Complaint

_WIDTH = {"key": 0, "team": 1, "shared": 2}


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
    model = settings.models.get(name)
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
