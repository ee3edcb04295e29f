"""Kept streams that are replayed at a pace (`cache.replay: paced`).

The decision forwards such a hit to a route that no provider stands behind. There a second ext_proc filter comes back
with the ticket, and is told the answer event by event (StreamedImmediateResponse): Envoy takes that only in reply to a
request's headers, and a hit is known when its body has come. Whatever else is answered has nothing to do with it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from extproc import messages
from extproc.cache.pace import paced
from extproc.context import Reply
from extproc.limits import UNDECIDED
from extproc.processor import CACHE_METADATA
from sidecar import rpc
from sidecar.rpc import Step

TICKET = "replay"  # metadata
_MOST_HELD = 10_000
_LOST = Reply(503, UNDECIDED, (("content-type", "application/json"),))
_LONGEST_WAY = 60.0  # seconds until Envoy has come back


@dataclass(frozen=True, slots=True)
class Held:
    """An answer on its way, and how many of its events are sent in a second."""

    reply: Reply
    per_second: float
    since: float


class Replays:
    """Answers between the decision and their replay. `clock` is in seconds and never goes back; `sleep` waits so long.

    `nonce` tells this process' tickets from another's, `worker` is where Envoy comes back to.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        worker: int = 0,
        nonce: str = "",
    ) -> None:
        self.worker = worker
        self._clock = clock
        self._sleep = sleep
        self._nonce = nonce
        self._held: dict[str, Held] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, reply: Reply, per_second: float) -> str:
        """The ticket to come back with; empty when too many are on their way."""
        self._forget()
        if len(self._held) >= _MOST_HELD:
            return ""
        ticket = f"{self._nonce}-{next(self._numbers)}"
        self._held[ticket] = Held(reply, per_second, self._clock())
        return ticket

    def take(self, ticket: str) -> Held | None:
        """The answer, once."""
        return self._held.pop(ticket, None)

    def _forget(self) -> None:
        """Those whose client has left before Envoy came back. They are in the order in which they came."""
        ends = self._clock() - _LONGEST_WAY
        while self._held:
            ticket = next(iter(self._held))
            if self._held[ticket].since > ends:
                return
            del self._held[ticket]

    async def pieces(self, held: Held) -> AsyncIterator[rpc.Reply]:
        """The body, as Envoy is told it."""
        async for piece, ends in paced(held.reply.body, held.per_second, self._clock, self._sleep):
            yield messages.write_piece(piece, ends=ends)


class Replayer:
    """One replay's stream."""

    __slots__ = ("_replays",)

    def __init__(self, replays: Replays) -> None:
        self._replays = replays

    def on_message(self, message: ProcessingRequest | messages.Head) -> Step:
        if isinstance(message, messages.Head):
            message = message.whole()
        spaces = message.metadata_context.filter_metadata
        ticket = spaces[CACHE_METADATA].fields[TICKET].string_value if CACHE_METADATA in spaces else ""
        held = self._replays.take(ticket)
        if held is None:
            return Step((messages.write_reply(_LOST, {}),), done=True)
        return Step((messages.write_head(held.reply),), done=True, more=self._replays.pieces(held))

    def on_end(self) -> Step:
        return Step(done=True)

    def on_close(self) -> None:
        return
