"""One Redis connection pool from one URL (`redis://`, `rediss://`, `unix://`)."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from sidecar.errors import ConfigError, Problem

SCHEMES = ("redis://", "rediss://", "unix://")


def connect(url: str, *, timeout: float = 0.1, max_connections: int = 64) -> Redis:
    """A client for `url`; nothing is sent until its first command.

    `timeout` (seconds) bounds both connecting and each command: a decision that waits longer than its
    caller is worth nothing. A connection found dead is replaced once, silently.

    Raises `ConfigError` when the URL's scheme is not one of `SCHEMES` or the URL cannot be parsed.
    """
    if not url.startswith(SCHEMES):
        raise ConfigError(
            [
                Problem(
                    "store",
                    "",
                    f"'{url.split('://')[0]}' is not a Redis scheme",
                    f"use one of {', '.join(SCHEMES)}",
                )
            ]
        )
    try:
        return Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            max_connections=max_connections,
            retry=Retry(NoBackoff(), 1),
            retry_on_error=[RedisConnectionError],
            health_check_interval=0,
            decode_responses=False,
        )
    except ValueError as error:
        raise ConfigError([Problem("store", "", f"not a Redis URL: {error}")]) from error
