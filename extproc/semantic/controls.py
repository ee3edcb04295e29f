"""What a client may say of the semantic cache: an extension of `cache-control` (RFC 9111, section 5.2.3)."""

from __future__ import annotations

EXACT_ONLY = "exact-only"


def wants_exact(values: tuple[bytes, ...]) -> bool:
    """Whether the header's values hold the directive `exact-only`: equal questions only."""
    return any(part.strip().lower() == EXACT_ONLY for value in values for part in value.decode("latin-1").split(","))
