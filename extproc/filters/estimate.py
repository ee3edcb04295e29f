"""What the request may cost, for the limits to check before it is sent."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.providers import openai


def estimate(exchange: Exchange) -> Reply | None:
    """Write the estimated tokens of the request."""
    assert exchange.operation is not None
    assert exchange.body is not None
    exchange.estimate = openai.estimate_tokens(
        exchange.operation, exchange.body, exchange.raw_body, exchange.policy.default_completion_tokens
    )
    return None
