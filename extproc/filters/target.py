"""Which targets serve the request, and in which order they are tried."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from extproc.balance.choice import Hints
from extproc.balance.health import Health
from extproc.context import Exchange, Reply
from extproc.errors import Rejected

_BEGINNING = 2  # messages that make a conversation: what the system says, and how the user began
_MESSAGES = msgspec.json.Decoder(list[msgspec.Raw])


def choose_targets(draw: Callable[[], float], health: Health) -> Callable[[Exchange], Reply | None]:
    """A filter that orders the targets of the model; `draw` gives a number in [0, 1)."""

    def choose(exchange: Exchange) -> Reply | None:
        order_targets(exchange, draw(), health)
        return None

    return choose


def order_targets(exchange: Exchange, draw: float, health: Health) -> None:
    """Write the order. Raises `Rejected` (400) when the client's own key fits none of them."""
    model = exchange.model
    assert model is not None
    affinity = _affinity(exchange, model.affinity) if model.affinity else b""
    hints = Hints(draw, affinity, exchange.prompt_tokens, exchange.completion_tokens)
    order = model.pool.order(health, hints)
    if exchange.own_key or exchange.realtime or not model.serves_all:
        order = _fitting(exchange, order)
    exchange.order = order


def _fitting(exchange: Exchange, order: tuple[int, ...]) -> tuple[int, ...]:
    """The targets that can serve this request: the client's own key is for one provider and no other may see it."""
    model, provider, operation = exchange.model, exchange.own_provider, exchange.operation
    assert model is not None
    every = model.targets
    ordered = dict.fromkeys((*order, *range(len(every))))
    kept = [index for index in ordered if not provider or every[index].provider == provider]
    if not kept:
        raise _nobody(model.name, f"is not served by the provider '{provider[:64]}' of x-provider-key")
    if provider:  # our own keys there make no difference: one target for each endpoint and model
        kept = list({(every[index].channel.base_url, every[index].model): index for index in reversed(kept)}.values())
        kept.reverse()
    if exchange.realtime:
        kept = [index for index in kept if every[index].realtime]
        if not kept:
            raise _nobody(model.name, "has no provider that serves WebSockets")
    if operation is not None:
        kept = [index for index in kept if not every[index].serves or operation.name in every[index].serves]
        if not kept:
            raise _nobody(model.name, f"has no provider that serves {operation.name}")
    if len(kept) < len(order):
        # One target alone is tried twice, as ever; with the client's own key once: its SDK tries again by itself.
        exchange.attempts = len(kept) if provider else max(2, len(kept))
    return tuple(kept[number % len(kept)] for number in range(len(order)))


def _nobody(model: str, why: str) -> Rejected:
    subject = f"The model '{model[:128]}'" if model else "This path"
    return Rejected(400, f"{subject} {why}.", code="provider_not_available", param="model" if model else None)


def _affinity(exchange: Exchange, what: str) -> bytes:
    """What shall stay with one target: all requests of a user, a conversation or a key."""
    assert exchange.key is not None
    if what == "key" or exchange.body is None:
        return exchange.key.name.encode()
    fields = exchange.body.fields
    # The client's own word for what shares a cache (OpenAI's prompt_cache_key) is better than any guess.
    names = ("user", "safety_identifier") if what == "user" else ("prompt_cache_key",)
    for name in names:
        if name in fields:
            return exchange.key.name.encode() + bytes(fields[name])
    return b"" if what == "user" else _beginning(fields)


def _beginning(fields: dict[str, msgspec.Raw]) -> bytes:
    said = fields.get("messages") or fields.get("input") or fields.get("prompt") or msgspec.Raw(b"")
    try:
        parts = _MESSAGES.decode(said)[:_BEGINNING]
    except msgspec.MsgspecError:
        parts = [said]
    return b"".join((fields.get("instructions") or b"", *parts))
