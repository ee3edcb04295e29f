"""Policies and requests for tests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from extproc.balance.health import Health
from extproc.context import Exchange, Forward, Outcome, RequestHeaders
from extproc.policy import Policy, build
from extproc.processor import Processor
from extproc.settings import PolicySettings


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def policy(**changes: Any) -> Policy:
    values: dict[str, Any] = {
        "providers": {
            "openai": {"dialect": "openai", "base_url": "http://one.test/v1"},
            "local": {"dialect": "openai", "base_url": "http://two.test/base/v1/", "include_usage": False},
        },
        "models": {
            "gpt-4o": {"provider": "openai"},
            "fast": [
                {"provider": "openai", "model": "gpt-4o-mini", "weight": 80},
                {"provider": "local", "model": "llama-3", "weight": 20},
            ],
            "off": [{"provider": "openai", "weight": 0}, {"provider": "local"}],
        },
        "keys": [
            {"name": "a", "sha256": digest("sk-a"), "limits": {"requests": "5/min"}},
            {"name": "b", "sha256": digest("sk-b"), "models": ["gpt-*"]},
        ],
    }
    return build(PolicySettings.model_validate({**values, **changes}), max_body_bytes=1_000_000, created=7)


def headers(
    path: str = "/v1/chat/completions", key: str = "sk-a", method: str = "POST", **extra: str
) -> RequestHeaders:
    values = {":method": method, ":path": path, "authorization": f"Bearer {key}", "content-length": "10"}
    values.update((name.replace("_", "-"), value) for name, value in extra.items())
    fields = {name: (value.encode(),) for name, value in values.items() if value}
    return RequestHeaders(fields, end_of_stream=False)


def run(body: dict[str, Any] | bytes, head: RequestHeaders | None = None, draw: float = 0.0, **changes: Any) -> Outcome:
    """Both phases of one request."""
    made = policy(**changes)
    processor = Processor(lambda: made, lambda: draw, Health(lambda: 0.0))
    exchange, outcome = processor.on_headers(head or headers())
    if not isinstance(exchange, Exchange) or outcome.__class__.__name__ != "NeedBody":
        return outcome
    return processor.on_body(exchange, body if isinstance(body, bytes) else json.dumps(body).encode())


def forwarded(
    body: dict[str, Any] | bytes, head: RequestHeaders | None = None, draw: float = 0.0, **changes: Any
) -> Forward:
    outcome = run(body, head, draw, **changes)
    assert isinstance(outcome, Forward), outcome
    return outcome
