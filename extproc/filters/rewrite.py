"""The request as its targets must get it: rewritten only when something in it really changes.

The first attempt's request is written here. What later attempts must look like, where their targets differ, goes along
as one line of text per attempt, for Envoy to make them from the same body (`headgate/render/attempt.lua`): the fields
in which targets differ stand first in the body, so that one piece of it is replaced.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from extproc.context import Exchange, Reply
from extproc.policy import BodyPlan
from extproc.providers import openai
from extproc.targets import Target

_LONGEST_KEPT = 1024  # bytes that a client wrote
_MOST_KEPT = 1024
_MAXIMUMS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


def rewrite(exchange: Exchange) -> Reply | None:
    """Write the body of the first attempt, and what differs in later ones.

    The body is also replaced, unchanged, when it came without content-length: some providers refuse
    chunked requests, and only a replaced body may be given a length.
    """
    model, operation = exchange.model, exchange.operation
    assert model is not None
    assert operation is not None
    exchange.operation_path = operation.path
    exchange.chunks = operation.has_stream_options and exchange.body is not None and openai.is_stream(exchange.body)
    exchange.query = exchange.headers.one(":path").partition("?")[2]
    if exchange.form is not None:
        _rewrite_form(exchange)
    elif model.uniform:
        _rewrite_alike(exchange)
    else:
        _rewrite_each(exchange)
    if exchange.rewritten is None and not exchange.headers.one("content-length"):
        exchange.rewritten = exchange.raw_body
    return None


def _rewrite_alike(exchange: Exchange) -> None:
    """All targets get the same bytes."""
    body, target = exchange.body, exchange.target
    assert body is not None
    assert target is not None
    changes = _changes(exchange, target)
    if changes or body.ambiguous:
        exchange.rewritten = openai.encode(_present({**body.fields, **changes}))


def _rewrite_each(exchange: Exchange) -> None:
    """Targets differ: the fields in which they do stand first."""
    body, model = exchange.body, exchange.model
    assert body is not None
    assert model is not None
    own, rest = body.split(model.varying)
    # Hardly any of it changes from request to request: what was worked out once is kept.
    key = (exchange.order, exchange.operation_path, exchange.query, exchange.chunks, bool(rest))
    values = tuple([(name, bytes(raw)) for name, raw in own.items()])
    plan = model.plans.get((key, values))
    if plan is None:
        plan = _plan(exchange, own, "," if rest else "")
        if sum([len(value) for _, value in values]) + len(exchange.query) <= _LONGEST_KEPT:
            if len(model.plans) >= _MOST_KEPT:
                model.plans.clear()
            model.plans[key, values] = plan
    exchange.strip_usage = plan.strip_usage
    exchange.rewritten = openai.encode({**plan.first, **rest})
    exchange.later_attempts = f"1 {plan.length} {len(exchange.rewritten)}\n{plan.lines}"


def _plan(exchange: Exchange, own: Mapping[str, msgspec.Raw], comma: str) -> BodyPlan:
    model = exchange.model
    assert model is not None
    targets = [model.targets[index] for index in exchange.order]
    kept = {name: openai.compact(raw) for name, raw in own.items()}
    heads = [_present({**kept, **_changes(exchange, target)}) for target in targets]
    texts = [openai.encode_members(head).decode() + comma for head in heads]
    return BodyPlan(heads[0], len(texts[0].encode()), _lines(exchange, targets, texts), exchange.strip_usage)


def _rewrite_form(exchange: Exchange) -> None:
    form, model, raw = exchange.form, exchange.model, exchange.raw_body
    assert form is not None
    assert model is not None
    targets = [model.targets[index] for index in exchange.order]
    first = targets[0].model.encode()
    if targets[0].model != form.model:
        exchange.rewritten = raw[: form.start] + first + raw[form.end :]
    if not model.uniform:
        size = len(raw) - (form.end - form.start) + len(first)
        texts = [target.model for target in targets]
        exchange.later_attempts = f"{form.start} {len(first)} {size}\n{_lines(exchange, targets, texts)}"


def _present(fields: Mapping[str, msgspec.Raw | None]) -> dict[str, msgspec.Raw]:
    return {name: raw for name, raw in fields.items() if raw is not None}


def _changes(exchange: Exchange, target: Target) -> dict[str, msgspec.Raw | None]:
    """What `target` must get instead of what the client wrote, by field; None takes a field out."""
    body, operation, model = exchange.body, exchange.operation, exchange.model
    assert body is not None
    assert operation is not None
    assert model is not None
    changes: dict[str, msgspec.Raw | None] = {}
    if target.model != model.name:
        changes["model"] = openai.raw_value(target.model)
    for name in target.drops:
        if name in body.fields:
            changes[name] = None
    if exchange.chunks and target.include_usage:
        options = openai.stream_options(body)
        if options.get("include_usage") is not True:
            changes["stream_options"] = openai.raw_value({**options, "include_usage": True})
            exchange.strip_usage = True
    if target.max_tokens and operation.name == "chat.completions":
        other = _MAXIMUMS[target.max_tokens]
        if other in body.fields:
            changes[other] = None
            if target.max_tokens not in body.fields:
                changes[target.max_tokens] = body.fields[other]
    return changes


def _lines(exchange: Exchange, targets: list[Target], texts: list[str]) -> str:
    """Of every attempt after the first: its path, and what stands in the body instead of the first one's piece.

    Before them goes where that piece stands, its length, and that of the whole body. Compact JSON holds no raw tab or
    line end, nor does a model's name, so these separate.
    """
    later = zip(targets[1:], texts[1:], strict=True)
    return "\n".join([f"{target.path(exchange.operation_path, exchange.query)}\t{text}" for target, text in later])


def plan_paths(exchange: Exchange) -> None:
    """Later attempts of a request whose body stays as it is: only their paths may differ."""
    model = exchange.model
    assert model is not None
    if not model.uniform:
        targets = [model.targets[index] for index in exchange.order]
        exchange.later_attempts = f"0 0 0\n{_lines(exchange, targets, [''] * len(targets))}"
