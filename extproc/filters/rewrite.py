"""The body as the provider must get it: rewritten only when something in it really changes."""

from __future__ import annotations

from extproc.context import Exchange, Reply
from extproc.providers import openai


def rewrite(exchange: Exchange) -> Reply | None:
    """Put in the target's model name and the request for usage.

    The body is also replaced, unchanged, when it came without content-length: some providers refuse
    chunked requests, and only a replaced body may be given a length.
    """
    body, target, operation, model = exchange.body, exchange.target, exchange.operation, exchange.model
    assert body is not None
    assert target is not None
    assert operation is not None
    assert model is not None
    changed = body.ambiguous
    if target.model != model.name:
        body.set("model", target.model)
        changed = True
    if operation.has_stream_options and target.include_usage and openai.is_stream(body):
        exchange.strip_usage = openai.ask_for_usage(body)
        changed = changed or exchange.strip_usage
    if changed:
        exchange.rewritten = body.encode()
    elif not exchange.headers.one("content-length"):
        exchange.rewritten = exchange.raw_body
    return None
