"""Whether the request is one for the cache, and under which key."""

from __future__ import annotations

from extproc.cache.asked import asked
from extproc.cache.controls import CONTROL_HEADER, SALT_HEADER, Controls
from extproc.cache.key import Scope
from extproc.cache.question import Question
from extproc.cache.replay import STATUS_HEADER
from extproc.cache.rules import Reason
from extproc.context import Exchange, Reply
from extproc.policy import Key
from extproc.providers import openai
from extproc.semantic.controls import wants_exact
from extproc.semantic.question import SemanticQuestion

# The answer to `only-if-cached` when there is none (RFC 9111, section 5.2.1.7).
NOT_CACHED = Reply(
    504,
    openai.error_body("There is no cached answer to this request.", kind="invalid_request_error", code="not_cached"),
    (("content-type", "application/json"), (STATUS_HEADER, "miss")),
)


BETA_HEADER = "openai-beta"


def _values(values: tuple[bytes, ...]) -> list[str]:
    return [value.decode("latin-1") for value in values]


def _tenant(key: Key, scope: Scope) -> str:
    """Whose answers a key shares. A key without a team is one of its own."""
    if scope == "key":
        return key.name
    return (key.team or f"key {key.name}") if scope == "team" else ""


def ask_cache(exchange: Exchange) -> Reply | None:
    """Write the question, or why there is none. Costs nothing for a model without a cache."""
    model, key, operation = exchange.model, exchange.key, exchange.operation
    assert model is not None
    assert key is not None
    assert operation is not None
    rules = model.cache
    if rules is None:
        return None
    headers = exchange.headers
    controls = Controls.parse(headers.all(CONTROL_HEADER), headers.all(SALT_HEADER))
    reason: Reason | None = None
    if not key.cache:
        reason = Reason.OFF
    elif exchange.own_key:
        reason = Reason.OWN_KEY
    else:
        fields = exchange.body.fields if exchange.body is not None else None
        # All that reaches the provider beside the body, as far as it can change an answer.
        marks = (*model.marks, headers.one(":path").partition("?")[2], *_values(headers.all(BETA_HEADER)))
        tenant = _tenant(key, rules.scope)
        found = asked(exchange.raw_body, fields, operation.name, tenant, model.name, marks, controls, rules)
        if not isinstance(found, Reason):
            exchange.cache_reason = "" if found.read else str(Reason.NO_CACHE)
            only, semantic = controls.only_if_cached, model.semantic
            if semantic is None or wants_exact(headers.all(CONTROL_HEADER)):
                exchange.question = Question(
                    found.key, operation.name, rules, found.read, controls.max_age, only, model.prices
                )
            else:
                exchange.question = SemanticQuestion(
                    found.key, operation.name, rules, found.read, controls.max_age, only, model.prices,
                    semantic=semantic, canonical=found.canonical, tenant=_tenant(key, semantic.scope),
                    marks=marks, salt=controls.salt,
                )  # fmt: skip
            return None
        reason = found
    if controls.only_if_cached:
        return NOT_CACHED
    exchange.cache_status, exchange.cache_reason = "bypass", str(reason)
    return None
