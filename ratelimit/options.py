"""What an operator asks of the service besides its rules."""

from __future__ import annotations

from dataclasses import dataclass

from ratelimit.rules import OnError


@dataclass(frozen=True, slots=True)
class Options:
    """One frozen object; the names of envoyproxy/ratelimit's variables stand in brackets.

    `shadow` [SHADOW_MODE] decides and counts as always, but never denies a call. `quota` [QUOTA_MODE] treats every rule
    as a quota. `near_ratio` [NEAR_LIMIT_RATIO] is where "near the limit" begins. `key_prefix` [CACHE_KEY_PREFIX] stands
    before every key in the store. `jitter` [EXPIRATION_JITTER_MAX_SECONDS] spreads the expiry of counters by up to so
    many seconds. `local_cache_bytes` [LOCAL_CACHE_SIZE_IN_BYTES] remembers keys that are over their limit, so that the
    store is not asked again; 0 does not. `stop_when_over` [STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT] counts only the
    limits that deny a call, not the others that it matched. `headers` [LIMIT_RESPONSE_HEADERS_ENABLED, LIMIT_*_HEADER]
    are the names for limit, remaining and reset; None sends none. `metadata` [RESPONSE_DYNAMIC_METADATA] tells Envoy
    what was asked. `on_error` is what a rule means without a store when it does not say so itself, `local_share` the
    part of each limit that a process then allows by itself.
    """

    shadow: bool = False
    quota: bool = False
    near_ratio: float = 0.8
    key_prefix: str = ""
    jitter: int = 0
    local_cache_bytes: int = 0
    stop_when_over: bool = False
    headers: tuple[str, str, str] | None = None
    metadata: bool = False
    on_error: OnError = OnError.ERROR
    local_share: float = 1.0
