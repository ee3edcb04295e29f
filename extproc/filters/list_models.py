"""`GET /v1/models` and `GET /v1/models/{model}`: answered from the policy, only what the key may use."""

from __future__ import annotations

from urllib.parse import unquote

from extproc.context import Exchange, Reply
from extproc.errors import Rejected
from extproc.filters.operation import plain_path
from extproc.providers import openai

_PATH = "/v1/models"


def list_models(exchange: Exchange) -> Reply | None:
    """Answer when this is a question about models; otherwise go on."""
    path = plain_path(exchange.headers)
    if path != _PATH and not path.startswith(_PATH + "/"):
        return None
    if exchange.headers.one(":method") not in ("GET", "HEAD"):
        raise Rejected(405, f"{path} answers GET only.", code="method_not_allowed", headers=(("allow", "GET, HEAD"),))
    policy, key = exchange.policy, exchange.key
    assert key is not None
    if path == _PATH:
        names = [name for name in policy.models if name in key.models]
        return _json(openai.models_body(names, policy.created))
    name = unquote(path.removeprefix(_PATH + "/"))
    if name not in policy.models or name not in key.models:
        raise Rejected(
            404,
            f"The model '{name[:128]}' does not exist or this key may not use it.",
            code="model_not_found",
            param="model",
        )
    return _json(openai.model_body(name, policy.created))


def _json(body: bytes) -> Reply:
    return Reply(200, body, (("content-type", "application/json"),))
