"""A gateway key among the subprotocols of a WebSocket: a browser cannot send headers of its own with one.

https://developers.openai.com/api/docs/guides/realtime-websocket
"""

from __future__ import annotations

from extproc.context import RequestHeaders

PROTOCOLS_HEADER = "sec-websocket-protocol"
_KEY = "openai-insecure-api-key."
# What is about the client's account, or is its key, is not the provider's to see; the rest is.
_PRIVATE = (_KEY, "openai-organization.", "openai-project.")


def is_websocket(headers: RequestHeaders) -> bool:
    """Whether the request opens a WebSocket."""
    return headers.one("upgrade").lower() == "websocket"


def offered(headers: RequestHeaders) -> list[str]:
    """The subprotocols that a client offers, in order."""
    values = (value.decode("utf-8", "replace") for value in headers.all(PROTOCOLS_HEADER))
    return [one for one in (part.strip() for value in values for part in value.split(",")) if one]


def keys(headers: RequestHeaders) -> list[bytes]:
    """The keys among the subprotocols of a WebSocket."""
    if not is_websocket(headers):
        return []
    return [one.removeprefix(_KEY).encode() for one in offered(headers) if one.startswith(_KEY)]


def public(headers: RequestHeaders) -> str:
    """The subprotocols that may go to a provider, empty when there are none."""
    return ", ".join(one for one in offered(headers) if not one.lower().startswith(_PRIVATE))
