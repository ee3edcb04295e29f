"""From a URL to a client: one server, a master that sentinels name, or a cluster."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from sidecar.errors import ConfigError, Problem
from sidecar.redis.cluster import Cluster
from sidecar.redis.link import MAX_IN_FLIGHT, Link, LinkState
from sidecar.redis.request import Request
from sidecar.redis.sentinel import Sentinel
from sidecar.redis.transport import Session, tls_context
from sidecar.redis.url import Address, Target, Topology, parse

# Seconds. A failover that somebody asked for leaves the old master writable, for many seconds, to who stays with it.
_RECHECK = 1.0


class Sender(Protocol):
    """One server."""

    def send(self, request: Request) -> None:
        """Send `request` to it, whatever its key is. Raises `StoreError` when it is refused: not sent."""


class Client(Protocol):
    """Pipelined requests to Redis. Nothing is sent, and no loop is needed, before the first one.

    `clustered`: the keys of one command must share a slot.
    """

    clustered: bool

    def send(self, request: Request) -> None:
        """Send `request` with all others of this loop tick. Raises `StoreError` when it is refused: not sent."""

    def add_prelude(self, *command: str | bytes) -> None:
        """Send `command` on every connection made from now on, whatever Redis says to it."""

    async def ping(self) -> None:
        """Raise `StoreError` when Redis does not answer."""

    async def masters(self) -> Sequence[Sender]:
        """Every server that holds keys, for commands about none of them. Raises `StoreError` when that is unknown."""

    async def close(self) -> None:
        """Fail what is in flight, and let go of connections."""

    @property
    def nodes(self) -> tuple[LinkState, ...]:
        """How each server is connected, for operators."""


def connect(
    url: str, *, timeout: float = 0.1, connect_timeout: float = 0.5, max_in_flight: int = MAX_IN_FLIGHT
) -> Client:
    """A client for `url`; nothing is sent until its first request.

    `timeout` (seconds) bounds each round trip: a decision that waits longer than its caller is worth nothing.
    `connect_timeout` (seconds) bounds an attempt to connect, which no decision waits for longer than `timeout`.
    The URL's `socket_timeout` and `socket_connect_timeout` win over both. `max_in_flight` is per server.

    Raises `ConfigError` when the URL is none of Redis (`SCHEMES`), or names certificates that cannot be used.
    """
    try:
        target = parse(url)
        tls = tls_context(target.tls) if target.tls is not None else None
    except ValueError as error:
        message, _, mend = str(error).partition(" | ")
        raise ConfigError([Problem("store", "", message, mend)]) from None
    session = Session(
        target.credentials,
        target.database,
        target.client_name,
        tls,
        timeout if target.timeout is None else target.timeout,
        connect_timeout if target.connect_timeout is None else target.connect_timeout,
    )
    if target.topology is Topology.CLUSTER:
        return Cluster(target.addresses, session, max_in_flight=max_in_flight)
    if target.topology is Topology.SENTINEL:
        return _sentinel(target, session, max_in_flight)
    (address,) = target.addresses

    async def resolve() -> Address:
        return address

    return Link(resolve, session, max_in_flight=max_in_flight)


def _sentinel(target: Target, session: Session, max_in_flight: int) -> Link:
    asking = dataclasses.replace(session, credentials=target.sentinel_credentials, database=0)
    sentinel = Sentinel(target.addresses, target.service, asking)
    data = dataclasses.replace(session, master=True)
    return Link(sentinel.master, data, max_in_flight=max_in_flight, recheck=_RECHECK)
