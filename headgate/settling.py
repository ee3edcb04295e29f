"""Who settles what was reserved: the access log where it reaches the counters, else a call of Envoy's.

Envoy's configuration decides (it names its logs so, `extproc.accesslog.SETTLING`), and what renders that asks here.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from headgate.settings import Settings
from ratelimit.storage import MEMORY
from sidecar.errors import ConfigError, Problem

Only: TypeAlias = Literal["extproc", "ratelimit"]


def settles_in_log(settings: Settings) -> bool:
    """Whether the access log settles. Of several workers with one embedded store only the first has the counters."""
    if settings.limits.enforce == "in_process" or settings.limits.settle is not None:
        return settings.limits.settle != "call"
    return settings.workers == 1 or settings.store != MEMORY


def attached(settings: Settings) -> Settings:
    """The settings for a foreign Envoy. How many sidecars it reaches is not known: an embedded store is settled by a
    call to the service that has reserved."""
    if settings.store != MEMORY or settings.limits.settle is not None or settings.limits.enforce == "in_process":
        return settings
    return settings.model_copy(update={"limits": settings.limits.model_copy(update={"settle": "call"})})


def check_only(only: Only | None, settings: Settings) -> None:
    """Whether the one service that is started can do its part. Raises `ConfigError`."""
    in_process = settings.limits.enforce == "in_process"
    if only == "ratelimit" and in_process:
        what = "there is no rate-limit service with `limits.enforce: in_process`"
        raise ConfigError([Problem("--only", "", what, "write extproc, or set `limits.enforce: envoy`")])
    reserved = any(key.limits.tokens is not None for key in settings.keys)
    here = in_process or settings.store != MEMORY
    if only == "extproc" and reserved and settles_in_log(settings) and not here:
        what = "the counters are in the rate-limit service's own store, where no access log can settle them"
        raise ConfigError([Problem("--only", "", what, "set `limits.settle: call`, or use a Redis store")])
