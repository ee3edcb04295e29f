"""Redis on the hot path: pipelined connections that are kept, requests of one loop tick in one write."""

from __future__ import annotations

from sidecar.redis.client import Client, Sender, connect
from sidecar.redis.errors import again, code, store_error
from sidecar.redis.link import LinkState
from sidecar.redis.request import Request, pack
from sidecar.redis.slots import hash_tag
from sidecar.redis.url import SCHEMES, parse

__all__ = [
    "SCHEMES",
    "Client",
    "LinkState",
    "Request",
    "Sender",
    "again",
    "code",
    "connect",
    "hash_tag",
    "pack",
    "parse",
    "store_error",
]
