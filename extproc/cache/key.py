"""The key of an answer: a digest of all that it depends on, and of who may see it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

# Who shares an answer: the gateway key that asked, its team, or everybody who may use the model.
Scope: TypeAlias = Literal["key", "team", "shared"]

_VERSION = b"headgate.cache.1"
_LENGTH = 8  # bytes
_LONGEST_KEPT = 1024  # characters


class CacheKey(NamedTuple):
    """Where an answer is kept. Only `digest` decides; the rest says what it is of, for a purge."""

    digest: bytes  # 32
    scope: Scope
    tenant: str  # the name of the key or the team, empty when shared
    model: str

    @property
    def tags(self) -> tuple[str, ...]:
        """What a purge may name: `model:NAME`, and `key:NAME` or `team:NAME`. The first colon ends the kind."""
        model = f"model:{self.model}"
        return (model, f"{self.scope}:{self.tenant}") if self.tenant else (model,)


def make_key(
    scope: Scope,
    tenant: str,
    operation: str,
    resolved_model: str,
    canonical_body: bytes,
    policy_marks: Sequence[str] = (),
    salt: bytes = b"",
) -> CacheKey:
    """The key of a request.

    `tenant` is a name of the policy, never one that a client sent; `policy_marks` are what else the answer depends on
    that does not stand in the body (the targets, headers that reach them), in a fixed order; `salt` is the client's.
    Every part is hashed behind its length, and the marks behind their number, so no value can pass for two, or for
    another part. Raises `ValueError` for a scope without its tenant: an answer nobody owns would be everybody's.
    """
    if bool(tenant) == (scope == "shared"):
        raise ValueError(f"the scope '{scope}' does not go with the tenant '{tenant}'")
    texts = (scope, tenant, operation, resolved_model, str(len(policy_marks)), *policy_marks)
    # A client's query is among the marks: what is long is not remembered.
    head = (_kept_head if sum(map(len, texts)) <= _LONGEST_KEPT else _head)(texts)
    length = len(canonical_body).to_bytes(_LENGTH, "big")
    digest = hashlib.sha256(b"".join((head, _sized(salt), length, canonical_body))).digest()
    return CacheKey(digest, scope, tenant, resolved_model)


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(_LENGTH, "big") + part


def _head(texts: tuple[str, ...]) -> bytes:
    parts = (_VERSION, *(text.encode("utf-8", "surrogatepass") for text in texts))
    return b"".join([_sized(part) for part in parts])


_kept_head = lru_cache(maxsize=1024)(_head)
