"""Which model is asked for, and whether this key may use it."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.providers import openai

_SHOWN = 128


def authorize(exchange: Exchange) -> Reply | None:
    """Find the model, or refuse: 404 when there is none of that name, 403 when this key may not use it."""
    assert exchange.body is not None
    assert exchange.key is not None
    name = openai.requested_model(exchange.body)
    model = exchange.policy.models.get(name)
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    if model is None:
        raise Rejected(
            404,
            f"The model '{shown}' does not exist: GET /v1/models lists what this key may use.",
            code="model_not_found",
            param="model",
        )
    if name not in exchange.key.models:
        raise Rejected(
            403,
            f"The key '{exchange.key.name}' may not use the model '{shown}'.",
            code="model_not_allowed",
            kind="permission_error",
            param="model",
        )
    exchange.model = model
    return None
