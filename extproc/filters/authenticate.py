"""Who is asking: `authorization: Bearer <gateway key>` (RFC 6750, section 2.1), or a WebSocket's subprotocol."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.filters import protocols

_CHALLENGE = (("www-authenticate", 'Bearer realm="headgate"'),)


def authenticate(exchange: Exchange) -> Reply | None:
    """Find the key of the request, or refuse it with 401. Nothing goes on without a key."""
    values = exchange.headers.all("authorization")
    secret = _bearer(values) if values else _among_protocols(exchange)
    key = exchange.policy.authenticate(secret) if secret else None
    if key is None:
        raise _refused("Incorrect API key provided.")
    exchange.key = key
    return None


def _bearer(values: tuple[bytes, ...]) -> bytes:
    if len(values) > 1:
        raise _refused("The request has more than one Authorization header: send exactly one.")
    scheme, _, secret = values[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise _refused("The Authorization header must use the Bearer scheme: 'Authorization: Bearer YOUR_KEY'.")
    return secret.strip()


def _among_protocols(exchange: Exchange) -> bytes:
    keys = protocols.keys(exchange.headers)
    if len(keys) != 1:
        raise _refused("You didn't provide an API key: send the header 'Authorization: Bearer YOUR_KEY'.")
    return keys[0]


def _refused(message: str) -> Rejected:
    return Rejected(401, message, code="invalid_api_key", headers=_CHALLENGE)
