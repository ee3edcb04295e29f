"""What the request may cost, for the limits to check before it is sent."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.providers import openai

_FORM_TOKENS = 1_000  # an image or a recording, roughly


def estimate(exchange: Exchange) -> Reply | None:
    """Write the estimated tokens of the request."""
    assert exchange.operation is not None
    if exchange.body is None:
        exchange.prompt_tokens = _FORM_TOKENS
        return None
    exchange.prompt_tokens, exchange.completion_tokens = openai.estimate_tokens(
        exchange.operation, exchange.body, exchange.raw_body, exchange.policy.default_completion_tokens
    )
    return None
