"""The ExternalProcessor service: one gRPC stream per request, ended with the last reply it needs.

Streams end as early as possible because a stream that is left open takes the client's answer with it when
this process dies. Every message is answered or the call fails: an end without an answer would let the
request go on undecided.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

from extproc import context, messages
from extproc.cache.cache import Cache, Found, Missed, Outcome
from extproc.cache.question import Question
from extproc.context import AskCache, Exchange, Facts, Forward, MetadataValue, NeedBody, Reply
from extproc.filters.ask_cache import NOT_CACHED
from extproc.limits import Limits, Verdict
from extproc.messages import Head
from extproc.processor import CACHE_METADATA, METADATA, ROUTE_HEADER, USAGE_METADATA, Processor, describe, for_envoy
from extproc.replayer import TICKET, Replayer, Replays
from extproc.semantic.cache import SemanticCache
from extproc.targets import REPLAYED
from sidecar import rpc
from sidecar.errors import RpcError, StatusCode
from sidecar.protowire import Encoded
from sidecar.rpc import CallContext, Service, Step, StreamMethod
from sidecar.waiting import Mapped

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"
_NEED_BODY = Step((messages.NEED_BODY,))
PURPOSE_HEADER, TO_REPLAY = "x-headgate-purpose", "replay"  # what a stream of Envoy's is for, when not a decision
WORKER = "worker"  # metadata: which of several has decided
_NO_FACTS: Mapping[str, MetadataValue] = {}


class Observer(Protocol):
    """Told about every decision: how it ended and how long it took in this process (seconds)."""

    def decided_request(self, outcome: str, seconds: float) -> None:
        """`outcome` is `forward`, or the status of our own reply."""

    def message(self) -> None:
        """A message of a stream has arrived."""

    def forwarded(self, cluster: str) -> None:
        """A request goes on; the target that is tried first is this cluster."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What Envoy is told when the cache does not know within `soon` seconds: it would give up meanwhile."""

    soon: float
    more_time: Encoded

    @classmethod
    def of(cls, decision_timeout: float, longest: float) -> Patience:
        """For an Envoy that waits `decision_timeout` seconds, and requests that may wait `longest` for others."""
        return cls(min(0.1, decision_timeout / 4), messages.more_time(longest + decision_timeout))


class _Stream:
    """One request's stream."""

    __slots__ = (
        "_answers", "_cache", "_clock", "_exchange", "_hit_limits", "_limits", "_observer", "_patience", "_processor",
        "_replays", "_seconds", "_signature",
    )  # fmt: skip

    def __init__(
        self,
        processor: Processor,
        clock: Callable[[], float],
        observer: Observer,
        limits: Limits | None,
        signature: Mapping[str, MetadataValue],
        cache: Cache | None,
        hit_limits: Limits | None,
        patience: Patience | None,
        replays: Replays | None,
        semantic: SemanticCache | None,
    ) -> None:
        self._processor = processor
        self._clock = clock
        self._observer = observer
        self._limits = limits
        self._signature = signature
        self._cache = cache
        self._answers = semantic or cache  # who is asked
        self._hit_limits = hit_limits
        self._patience = patience
        self._replays = replays
        self._exchange: Exchange | None = None
        self._seconds = 0.0

    def on_message(self, received: ProcessingRequest | Head) -> Step | Awaitable[Step]:
        started = self._clock()
        self._observer.message()
        known = self._processor.recall(received.mark, received.length) if isinstance(received, Head) else None
        if known is not None:
            self._exchange, outcome = known
        else:
            outcome = self._judged(received)
        exchange = self._exchange
        assert exchange is not None
        if isinstance(outcome, NeedBody):
            self._seconds += self._clock() - started
            return _NEED_BODY
        if isinstance(outcome, AskCache):
            return self._ask_cache(exchange, outcome.question, started)
        exchange.forget_body()
        return self._decided(exchange, outcome, started)

    def _judged(self, received: ProcessingRequest | Head) -> context.Outcome:
        """What the filters say of a message."""
        message = received.whole() if isinstance(received, Head) else received
        phase = message.WhichOneof("request")
        if phase == "request_headers":
            self._exchange, outcome = self._processor.on_headers(messages.read_headers(message.request_headers))
            if isinstance(received, Head):
                self._processor.remember(self._exchange, outcome, received.mark, received.length)
            return outcome
        if phase == "request_body" and self._exchange is not None:
            return self._processor.on_body(self._exchange, message.request_body.body)
        raise RpcError(StatusCode.FAILED_PRECONDITION, f"not asked for in this order: {phase}")

    def _ask_cache(self, exchange: Exchange, question: Question, started: float) -> Step | Awaitable[Step]:
        if self._answers is None:
            return self._go_on(exchange, Missed("", "off"), started)
        outcome = self._answers.ask(question)
        if isinstance(outcome, Found | Missed):
            return self._answered(exchange, outcome, started)
        self._seconds += self._clock() - started
        return self._answer_later(exchange, outcome)

    async def _answer_later(self, exchange: Exchange, waiting: Awaitable[Outcome]) -> Step:
        patience = self._patience
        if patience is None:
            return await self._answer(exchange, waiting)
        assert self._cache is not None
        asking = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait((asking,), timeout=patience.soon)
        except asyncio.CancelledError:
            self._cache.give_up(asking)
            raise
        if asking.done():
            return await self._answer(exchange, asking)
        return Step((patience.more_time,), done=True, more=self._at_last(exchange, asking))

    async def _at_last(self, exchange: Exchange, asking: asyncio.Future[Outcome]) -> AsyncIterator[rpc.Reply]:
        assert self._cache is not None
        try:
            await asyncio.wait((asking,))
        except (asyncio.CancelledError, GeneratorExit):
            self._cache.give_up(asking)
            raise
        step = await self._answer(exchange, asking)
        for reply in step.replies:
            yield reply

    async def _answer(self, exchange: Exchange, waiting: Awaitable[Outcome]) -> Step:
        outcome = await waiting
        step = self._answered(exchange, outcome, self._clock())
        return step if isinstance(step, Step) else await step

    def _answered(self, exchange: Exchange, outcome: Outcome, started: float) -> Step | Awaitable[Step]:
        if isinstance(outcome, Missed):
            return self._go_on(exchange, outcome, started)
        assert self._answers is not None
        exchange.cache_status = outcome.status
        kept = self._answers.reply(outcome)
        exchange.forget_body()
        if self._hit_limits is None or exchange.key is None or not exchange.key.limited:
            return self._hit(exchange, outcome, kept, started)
        verdict = self._hit_limits.ask(exchange, free=True)
        if isinstance(verdict, Verdict):
            return self._hit_limited(exchange, outcome, kept, verdict, started)
        return self._hit_later(exchange, outcome, kept, verdict, started)

    async def _hit_later(
        self, exchange: Exchange, found: Found, kept: Reply, waiting: Awaitable[Verdict], started: float
    ) -> Step:
        return self._hit_limited(exchange, found, kept, await waiting, started)

    def _hit_limited(self, exchange: Exchange, found: Found, kept: Reply, verdict: Verdict, started: float) -> Step:
        if verdict.reply is not None:
            return self._reply(exchange, verdict.reply, started)
        return self._hit(exchange, found, kept, started)

    def _hit(self, exchange: Exchange, found: Found, kept: Reply, started: float) -> Step:
        assert self._answers is not None
        self._answers.delivered(found)
        rules = exchange.question.rules if exchange.question is not None else None
        if self._replays is None or rules is None or rules.replay != "paced" or not found.entry.is_stream:
            return self._reply(exchange, kept, started)
        ticket = self._replays.hold(kept, rules.events_per_second)
        if not ticket:
            return self._reply(exchange, kept, started)
        facts = self._measured(describe(exchange), str(kept.status), started)
        route = (ROUTE_HEADER, f"{REPLAYED}{self._replays.worker}")
        way = Forward((route,), ("authorization",), None, {**facts, CACHE_METADATA: {TICKET: ticket}})
        return Step((messages.write_forward(way, way.metadata),), done=True)

    def _go_on(self, exchange: Exchange, missed: Missed, started: float) -> Step | Awaitable[Step]:
        if exchange.question is not None and exchange.question.only_if_cached:
            return self._reply(exchange, NOT_CACHED, started)
        exchange.cache_status, exchange.ticket = "miss", missed.ticket
        exchange.cache_reason = missed.reason or exchange.cache_reason
        outcome = self._processor.go_on(exchange)
        exchange.forget_body()
        return self._decided(exchange, outcome, started)

    def _decided(self, exchange: Exchange, outcome: Reply | Forward, started: float) -> Step | Awaitable[Step]:
        if isinstance(outcome, Reply):
            return self._reply(exchange, outcome, started)
        if self._limits is None:
            return self._forward(outcome, for_envoy(outcome.metadata, exchange), started)
        if exchange.key is None or not exchange.key.limited:
            return self._forward(outcome, outcome.metadata, started)
        verdict = self._limits.ask(exchange)
        if isinstance(verdict, Verdict):
            return self._limited(exchange, outcome, verdict, started)
        there = verdict.then

        def limited(done: asyncio.Future[Any]) -> Step:
            found = there(done)
            if self._exchange is None:  # the client has left meanwhile
                raise RpcError(StatusCode.CANCELLED, "nobody waits for this any more")
            return self._limited(exchange, outcome, found, started)

        return Mapped(verdict.future, limited)

    def _limited(self, exchange: Exchange, outcome: Forward, verdict: Verdict, started: float) -> Step:
        if verdict.reply is not None:
            return self._reply(exchange, verdict.reply, started)
        facts = outcome.metadata
        if verdict.usage:
            facts = {**facts, USAGE_METADATA: {**facts.get(USAGE_METADATA, _NO_FACTS), **verdict.usage}}
        return self._forward(outcome, facts, started, verdict.facts)

    def _forward(
        self, outcome: Forward, facts: Facts, started: float, more: Mapping[str, MetadataValue] = _NO_FACTS
    ) -> Step:
        exchange = self._exchange
        if exchange is None or exchange.target is None:  # the client has left meanwhile
            raise RpcError(StatusCode.CANCELLED, "nobody waits for this any more")
        self._observer.forwarded(exchange.target.cluster)
        measured = self._measured(facts, "forward", started, more)
        message = messages.write_forward(outcome, measured, on_headers=exchange.operation is None)
        self._exchange = None  # from here on Envoy knows its ticket, and the access log tells of its end
        return Step((message,), done=True)

    def _reply(self, exchange: Exchange, reply: Reply, started: float) -> Step:
        if exchange.ticket and self._cache is not None:
            self._cache.lost(exchange.ticket)  # it was to be kept, and is refused instead
        facts = self._measured(describe(exchange), str(reply.status), started)
        return Step((messages.write_reply(reply, facts),), done=True)

    def _measured(
        self, facts: Facts, outcome: str, started: float, more: Mapping[str, MetadataValue] = _NO_FACTS
    ) -> Facts:
        """The facts with our own time among them; the decision is done."""
        self._seconds += self._clock() - started
        self._observer.decided_request(outcome, self._seconds)
        ours = {**facts[METADATA], **more, **self._signature, "decision_us": round(self._seconds * 1e6)}
        return {**facts, METADATA: ours}

    def on_end(self) -> Step:
        # Only an answer ends a call well: a clean end without one would let the request go on undecided.
        raise RpcError(StatusCode.FAILED_PRECONDITION, "the stream ended before the request was decided")

    def on_close(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None and exchange.ticket and self._cache is not None:
            self._cache.lost(exchange.ticket)  # it has never gone on: the client left while its limits were decided


def external_processor(
    processor: Processor,
    clock: Callable[[], float],
    observer: Observer,
    limits: Limits | None = None,
    worker: int | None = None,
    cache: Cache | None = None,
    hit_limits: Limits | None = None,
    patience: Patience | None = None,
    replays: Replays | None = None,
    semantic: SemanticCache | None = None,
) -> Service:
    """The service for `processor`. `clock` counts seconds and never goes back.

    `limits` are decided here too when they are given; else Envoy asks the rate-limit service. One of several workers
    signs what it decides with its number. `cache` is asked for models that have one; answers from it count against
    `hit_limits`, as requests without tokens. `patience`: what is done while a request waits for another's answer;
    without it Envoy must wait as long by itself. `replays` hold kept streams that are sent at a pace; without them all
    are sent at once. `semantic` is asked in place of its `cache`, which it asks first.
    """
    signature = {} if worker is None else {WORKER: float(worker)}

    def opened(call: CallContext) -> _Stream | Replayer:
        if replays is not None and call.metadata.get(PURPOSE_HEADER) == TO_REPLAY:
            return Replayer(replays)
        return _Stream(processor, clock, observer, limits, signature, cache, hit_limits, patience, replays, semantic)

    return Service(SERVICE, (StreamMethod("Process", messages.Request, opened),))
