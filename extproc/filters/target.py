"""Which target serves the request."""

from __future__ import annotations

from collections.abc import Callable

from extproc.context import Exchange, Reply


def choose_target(draw: Callable[[], float]) -> Callable[[Exchange], Reply | None]:
    """A filter that picks one target of the model by weight; `draw` gives a number in [0, 1)."""

    def choose(exchange: Exchange) -> Reply | None:
        assert exchange.model is not None
        exchange.target = exchange.model.choose(draw())
        return None

    return choose
