"""The decision as a chain: every filter, in the one order in which they run.

A filter takes the exchange, reads what earlier ones found and writes what it found itself. It returns
nothing to go on, or a `Reply` that ends the decision; it raises `Rejected` to refuse. Filters keep no state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from extproc.context import Exchange, Reply
from extproc.filters.authenticate import authenticate
from extproc.filters.authorize import authorize
from extproc.filters.estimate import estimate
from extproc.filters.list_models import list_models
from extproc.filters.operation import find_operation
from extproc.filters.read_body import expect_body, read_body
from extproc.filters.rewrite import rewrite
from extproc.filters.target import choose_target

Filter: TypeAlias = Callable[[Exchange], Reply | None]

ON_HEADERS: tuple[Filter, ...] = (authenticate, list_models, find_operation, expect_body)


def on_body(draw: Callable[[], float]) -> tuple[Filter, ...]:
    """The chain once the body is there. `draw` gives a number in [0, 1) for the weighted choice."""
    return (read_body, authorize, choose_target(draw), estimate, rewrite)
