"""The policy: one immutable snapshot of keys, models and targets, built from settings and swapped whole."""

from __future__ import annotations

import hashlib
import hmac
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from types import MappingProxyType
from urllib.parse import urlsplit

from extproc.settings import PolicySettings, ProviderSettings

_NO_DIGEST = bytes(32)


@dataclass(frozen=True, slots=True)
class Target:
    """Where one attempt goes: the provider, Envoy's route to it, its base path and its name for the model."""

    provider: str
    route: str
    base_path: str
    model: str
    include_usage: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A name that clients may ask for, and the weighted targets behind it."""

    name: str
    targets: tuple[Target, ...]
    cumulative_weights: tuple[int, ...]

    def choose(self, draw: float) -> Target:
        """The target at `draw` (0 <= draw < 1) of the summed weights."""
        if len(self.targets) == 1:
            return self.targets[0]
        return self.targets[bisect_right(self.cumulative_weights, draw * self.cumulative_weights[-1])]


@dataclass(frozen=True, slots=True)
class Key:
    """A gateway key as its holder: a name, the digest of the secret, and the models it may use."""

    name: str
    digest: bytes
    models: frozenset[str]
    limited: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything a decision looks up. Never changed: a reload builds another one."""

    keys: Mapping[bytes, Key]
    models: Mapping[str, Model]
    default_completion_tokens: int
    max_body_bytes: int
    created: int

    def authenticate(self, secret: bytes) -> Key | None:
        """The key whose secret this is. The comparison takes the same time for every wrong secret."""
        digest = hashlib.sha256(secret).digest()
        key = self.keys.get(digest)
        known = hmac.compare_digest(key.digest if key is not None else _NO_DIGEST, digest)
        return key if known else None


def build(settings: PolicySettings, *, max_body_bytes: int, created: int) -> Policy:
    """The snapshot for `settings`. `created` (unix seconds) is what `/v1/models` reports."""
    models = {name: _model(name, settings) for name in settings.models}
    keys = {}
    for key in settings.keys:
        digest = bytes.fromhex(key.sha256)
        allowed = frozenset(name for name in models if any(fnmatchcase(name, pattern) for pattern in key.models))
        limited = key.limits.requests is not None or key.limits.tokens is not None
        keys[digest] = Key(key.name, digest, allowed, limited)
    return Policy(
        MappingProxyType(keys),
        MappingProxyType(models),
        settings.default_completion_tokens,
        max_body_bytes,
        created,
    )


def route_name(provider: str, settings: ProviderSettings) -> str:
    """Envoy's name for this definition of a provider: another one when anything but the key's value changes.

    So a request that was decided just before a reload still finds what it was decided for.
    """
    has_key = bool(settings.api_key.get_secret_value())
    definition = settings.model_dump_json(exclude={"api_key"}) + str(has_key)
    return f"{provider}@{hashlib.sha256(definition.encode()).hexdigest()[:8]}"


def _model(name: str, settings: PolicySettings) -> Model:
    chosen = [target for target in settings.models[name] if target.weight]
    targets = tuple(
        Target(
            target.provider,
            route_name(target.provider, settings.providers[target.provider]),
            urlsplit(settings.providers[target.provider].base_url).path,
            target.model or name,
            settings.providers[target.provider].include_usage,
        )
        for target in chosen
    )
    return Model(name, targets, tuple(accumulate(target.weight for target in chosen)))
