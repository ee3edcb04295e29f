"""Where processes tell each other what they have learned of targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from extproc.balance.notice import Notice

Hear: TypeAlias = Callable[[Notice], None]  # `Health.heard`


class Board(Protocol):
    """What others publish is handed to the `Hear` that a board is made with; one's own notices never are.

    Best effort: nothing that happens to a board delays or fails a request.
    """

    def publish(self, notices: Sequence[Notice]) -> None:
        """Tell the others, soon. Never raises and never waits."""

    def start(self) -> None:
        """Listen. Needs a running loop."""

    async def close(self) -> None:
        """Listen no more."""
