"""The decision as a chain: every filter, in the one order in which they run.

A filter takes the exchange, reads what earlier ones found and writes what it found itself. It returns
nothing to go on, or a `Reply` that ends the decision; it raises `Rejected` to refuse. Filters keep no state. Once the
order of the targets stands, the headers' phase is over: what comes after it in that chain is not run. A reply to
headers follows from them and the policy alone, so it may be remembered (`extproc.heads`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from extproc.balance.health import Health
from extproc.context import Exchange, Reply
from extproc.filters.ask_cache import ask_cache
from extproc.filters.authenticate import authenticate
from extproc.filters.authorize import authorize
from extproc.filters.estimate import estimate
from extproc.filters.list_models import list_models
from extproc.filters.operation import find_operation
from extproc.filters.own_key import take_own_key
from extproc.filters.passthrough import pass_through
from extproc.filters.read_body import expect_body, read_body
from extproc.filters.realtime import open_realtime
from extproc.filters.rewrite import rewrite
from extproc.filters.target import choose_targets

Filter: TypeAlias = Callable[[Exchange], Reply | None]


def on_headers(draw: Callable[[], float], health: Health) -> tuple[Filter, ...]:
    """The chain for the headers. What has no body to look into is decided here."""
    return (
        authenticate,
        list_models,
        take_own_key,
        pass_through(draw, health),
        open_realtime(draw, health),
        find_operation,
        expect_body,
    )


# The chain once the body is there. When it ends with a question for the cache, the next one waits for the answer.
ON_BODY: tuple[Filter, ...] = (read_body, authorize, ask_cache)


def on_forward(draw: Callable[[], float], health: Health) -> tuple[Filter, ...]:
    """The chain for what goes on to a provider. `draw` gives a number in [0, 1) for whatever is drawn by weight."""
    return (estimate, choose_targets(draw, health), rewrite)
