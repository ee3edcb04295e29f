"""The cache as a decision uses it: ask before a provider is asked, keep what comes.

    ask      -> Found, or Missed with a ticket when the answer is to be kept
    record   -> the `Capture` that an answer with this ticket is fed to
    keep     the answer has ended; lost: it never will

A request that is the first of its kind leads; equal ones wait for it (flight.py). Whatever goes wrong here, a request
goes on as if there were no cache.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from extproc.cache import replay
from extproc.cache.capture import Capture, Captured, Discarded
from extproc.cache.entry import Entry, decode
from extproc.cache.flight import Flights, Leader
from extproc.cache.price import cost_of
from extproc.cache.question import Question
from extproc.cache.shared_flight import SharedFlights
from extproc.cache.store.base import CacheStore
from extproc.cache.unfit import Reason
from extproc.context import Reply
from sidecar.errors import StoreError

_MOST_OPEN = 100_000  # answers that are waited for
# What says only that this attempt went wrong: another request may have more luck.
_TRY_AGAIN = frozenset({Reason.STATUS, Reason.CUT, Reason.ERROR, Reason.MALFORMED})


@dataclass(slots=True)  # not frozen: one is made per hit, and freezing would triple what that costs
class Found:
    """A kept answer; `coalesced` when it was waited for."""

    entry: Entry
    coalesced: bool = False

    @property
    def status(self) -> str:
        """As a client is told."""
        return "coalesced" if self.coalesced else replay.HIT


class Missed(NamedTuple):
    """A provider has to be asked. `ticket` is empty when its answer is not to be kept."""

    ticket: str
    reason: str = ""


Outcome: TypeAlias = Found | Missed


def tickets_of(worker: int) -> str:
    """How the tickets of a worker begin: it alone knows them."""
    return f"{worker}-"


class Observer(Protocol):
    """Told what becomes of questions and answers."""

    def looked_up(self, question: Question, result: str, reason: str) -> None:
        """`result` is hit, coalesced or miss."""

    def saved(self, model: str, tokens: int, cost: float | None) -> None:
        """A client was given a kept answer: what that took when it was made. No cost where no price was known."""

    def kept(self, question: Question, size: int) -> None:
        """An answer of so many bytes was put into the store."""

    def not_kept(self, question: Question, reason: str) -> None:
        """An answer was not kept."""

    def cache_failed(self, error: StoreError) -> None:
        """The store did not answer."""


@dataclass(slots=True)
class _Open:
    """An answer that is waited for."""

    question: Question
    leader: Leader | None
    since: float


class Cache:
    """`clock` is in seconds and never goes back, `unix_time` is the time of day. `wait` is how long (seconds) an equal
    request waits for the first. `compress_from` (bytes): larger bodies are compressed. `worker` begins every ticket,
    and `nonce` is in it: no two processes have the same, since an answer may come after the process that asked for it
    has died, and must not be taken for one that the next process asked for."""

    def __init__(
        self,
        store: CacheStore,
        flights: Flights | SharedFlights,
        observer: Observer,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
        *,
        wait: float,
        compress_from: int,
        worker: int = 0,
        nonce: str,
    ) -> None:
        self._store = store
        self._flights = flights
        self._observer = observer
        self._clock = clock
        self._unix_time = unix_time
        self._wait = wait
        self._compress_from = compress_from
        self._origin = f"{tickets_of(worker)}{nonce}"
        self._open: dict[str, _Open] = {}
        self._numbers = itertools.count(1)

    # before a provider is asked

    def ask(self, question: Question) -> Outcome | Awaitable[Outcome]:
        """At once where the store answers at once and nobody has to be waited for."""
        if not question.read:
            return self._missed(question, None, "")
        try:
            value = self._store.get(question.key.digest)
        except StoreError as error:
            return self._failed(question, error)
        if value is not None and not isinstance(value, bytes):
            return self._ask_later(question, value)
        return self._answered(question, value)

    async def _ask_later(self, question: Question, value: Awaitable[bytes | None]) -> Outcome:
        try:
            found = await value
        except StoreError as error:
            return self._failed(question, error)
        outcome = self._answered(question, found)
        return outcome if isinstance(outcome, Found | Missed) else await outcome

    def _answered(self, question: Question, value: bytes | None) -> Outcome | Awaitable[Outcome]:
        entry = self._fresh(question, value)
        if entry is not None:
            return self._found(question, entry, coalesced=False)
        if question.only_if_cached:
            self._observer.looked_up(question, "miss", "only_if_cached")
            return Missed("", "only_if_cached")
        joined = self._flights.join(question.key.digest)
        if isinstance(joined, Leader):
            return self._missed(question, joined, "")
        return self._wait_for(question, joined.wait(self._wait))

    async def _wait_for(self, question: Question, waiting: Awaitable[bytes | Leader | None]) -> Outcome:
        outcome = await waiting
        if isinstance(outcome, Leader):
            return self._missed(question, outcome, "")
        entry = self._fresh(question, outcome)
        if entry is not None:
            return self._found(question, entry, coalesced=True)
        # What another process keeps may be older than this client wants it.
        return self._missed(question, None, "waited" if outcome is None else "")

    def _fresh(self, question: Question, value: bytes | None) -> Entry | None:
        entry = decode(value, question.key.digest) if value is not None else None
        return entry if entry is not None and entry.fresh(self._unix_time(), question.max_age) else None

    def _found(self, question: Question, entry: Entry, *, coalesced: bool) -> Found:
        self._observer.looked_up(question, "coalesced" if coalesced else "hit", "")
        return Found(entry, coalesced)

    def _missed(self, question: Question, leader: Leader | None, reason: str) -> Missed:
        self._observer.looked_up(question, "miss", reason)
        if len(self._open) >= _MOST_OPEN:
            if leader is not None:
                leader.disband()
            return Missed("", reason)
        ticket = f"{self._origin}-{next(self._numbers)}"
        self._open[ticket] = _Open(question, leader, self._clock())
        return Missed(ticket, reason)

    def _failed(self, question: Question, error: StoreError) -> Missed:
        self._observer.cache_failed(error)
        self._observer.looked_up(question, "miss", "store")
        return Missed("", "store")

    def reply(self, found: Found) -> Reply:
        """The kept answer."""
        return replay.reply(found.entry, self._unix_time(), found.status)

    def delivered(self, found: Found) -> None:
        """A client is given it: its limits allowed that."""
        entry = found.entry
        self._observer.saved(entry.model, entry.usage.total or 0, entry.cost)

    # when its answer comes

    def record(self, ticket: str) -> Capture | None:
        """What the answer is fed to; None for a ticket that nobody knows (any more)."""
        opened = self._open.get(ticket)
        if opened is None:
            return None
        return Capture(opened.question.operation, opened.question.rules.max_answer)

    def keep(self, ticket: str, answer: Captured | Discarded, cluster: str = "") -> Awaitable[None] | None:
        """The answer has ended. `cluster` is the target that gave it, where that is known."""
        opened = self._open.pop(ticket, None)
        if opened is None:
            return None
        question, leader = opened.question, opened.leader
        if isinstance(answer, Discarded):
            self._observer.not_kept(question, str(answer.reason))
            if leader is not None:
                (leader.fail if answer.reason in _TRY_AGAIN else leader.disband)()
            return None
        digest, rules = question.key.digest, question.rules
        cost = cost_of(answer.usage, question.prices, cluster)
        entry = Entry.of(answer, question.key, self._unix_time(), rules.ttl, cost)
        value = entry.encode(digest, self._compress_from)
        token = leader.token if leader is not None else None
        try:
            kept = self._store.put(digest, value, rules.ttl, entry.tags, token)
        except StoreError as error:
            self._observer.cache_failed(error)
            kept = False
        if isinstance(kept, bool):
            self._landed(question, leader, value, kept=kept)
            return None
        return self._keep_later(question, leader, value, kept)

    async def _keep_later(
        self, question: Question, leader: Leader | None, value: bytes, waiting: Awaitable[bool]
    ) -> None:
        try:
            kept = await waiting
        except StoreError as error:
            self._observer.cache_failed(error)
            kept = False
        self._landed(question, leader, value, kept=kept)

    def _landed(self, question: Question, leader: Leader | None, value: bytes, *, kept: bool) -> None:
        if kept:
            self._observer.kept(question, len(value))
        if leader is not None:
            leader.land(value)

    def give_up(self, asking: asyncio.Future[Outcome]) -> None:
        """Who has asked wants it no more; it may have been told in this very moment."""
        if asking.cancel() or asking.cancelled() or asking.exception() is not None:
            return
        outcome = asking.result()
        if isinstance(outcome, Missed) and outcome.ticket:
            self.lost(outcome.ticket)

    def lost(self, ticket: str) -> None:
        """The request has ended and no answer was seen: its client went, or it was refused meanwhile."""
        opened = self._open.pop(ticket, None)
        if opened is not None:
            self._observer.not_kept(opened.question, str(Reason.CUT))
            if opened.leader is not None:
                opened.leader.fail()

    def answered(self, ticket: str) -> None:
        """The request was answered otherwise, and no answer will come: the next in line goes on."""
        opened = self._open.pop(ticket, None)
        if opened is not None and opened.leader is not None:
            opened.leader.fail()

    def all_lost(self) -> None:
        """No answer that is under way will be heard of: who would have told of it has died."""
        for ticket in list(self._open):
            self.lost(ticket)

    def sweep(self, older_than: float) -> None:
        """Give up answers that were asked for more than so many seconds ago and of which nothing more was heard."""
        ends = self._clock() - older_than
        for ticket in [ticket for ticket, opened in self._open.items() if opened.since < ends]:
            self.lost(ticket)
