"""What the benchmark configures Headgate with, as plain data that an arm lays its own over."""

from __future__ import annotations

from typing import Any

from bench.workloads import MODEL, digest, key
from sidecar.settings import merge

Config = dict[str, Any]
AMOUNT = 4_000_000_000  # of requests and of tokens per year: counted, never reached


def base(upstream_port: int, *, keys: int = 1, **overlay: Any) -> Config:
    """One provider, one model, `keys` keys with limits on requests and tokens; `overlay` is laid over it."""
    limits = {"requests": f"{AMOUNT}/year", "tokens": f"{AMOUNT}/year"}
    plain: Config = {
        "providers": {"fake": {"dialect": "openai", "base_url": f"http://127.0.0.1:{upstream_port}/v1"}},
        "models": {MODEL: {"provider": "fake"}},
        "keys": [{"name": f"bench-{index}", "sha256": digest(key(index)), "limits": limits} for index in range(keys)],
        "envoy": {"concurrency": 1},
    }
    merged: Config = merge(plain, overlay)
    return merged


def native(enforce: str) -> Config:
    """The native engine, with limits enforced so (`envoy` or `in_process`)."""
    return {"engine": "native", "limits": {"enforce": enforce}}
