"""A provider's key that the client brings itself: `x-provider-key: PROVIDER=KEY`."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.errors import Rejected

OWN_KEY_HEADER = "x-provider-key"


def take_own_key(exchange: Exchange) -> Reply | None:
    """Take the client's own key for one provider, where its gateway key allows that."""
    values = exchange.headers.all(OWN_KEY_HEADER)
    if not values:
        return None
    assert exchange.key is not None
    if not exchange.key.own_provider_keys:
        raise Rejected(
            403,
            f"The key '{exchange.key.name}' may not bring a provider's key: leave out {OWN_KEY_HEADER}, "
            "or have `own_provider_keys: true` set for it.",
            code="own_key_not_allowed",
            kind="permission_error",
        )
    provider, separator, secret = exchange.headers.one(OWN_KEY_HEADER).partition("=")
    provider, secret = provider.strip(), secret.strip()
    if not separator or not provider or not secret or not secret.isascii() or not secret.isprintable():
        raise Rejected(400, f"Write {OWN_KEY_HEADER} once, as PROVIDER=KEY.", code="invalid_own_key")
    exchange.own_provider, exchange.own_key = provider, secret
    return None
