"""Which model is asked for, and whether this key may use it."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.policy import Key, Model, Policy
from extproc.providers import openai

_SHOWN = 128


def authorize(exchange: Exchange) -> Reply | None:
    """Find the model, or refuse: 404 when there is none of that name, 403 when this key may not use it."""
    assert exchange.key is not None
    if exchange.form is not None:
        name = exchange.form.model
    else:
        assert exchange.body is not None
        name = openai.requested_model(exchange.body)
    exchange.model = allowed_model(exchange.policy, exchange.key, name)
    return None


def allowed_model(policy: Policy, key: Key, name: str) -> Model:
    """The model `name`. Raises `Rejected` (404, 403)."""
    model = policy.models.get(name)
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    if model is None:
        raise Rejected(
            404,
            f"The model '{shown}' does not exist: GET /v1/models lists what this key may use.",
            code="model_not_found",
            param="model",
        )
    if name not in key.models:
        raise Rejected(
            403,
            f"The key '{key.name}' may not use the model '{shown}'.",
            code="model_not_allowed",
            kind="permission_error",
            param="model",
        )
    return model
