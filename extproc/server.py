"""The ExternalProcessor service: one gRPC stream per request, ended with the last reply it needs.

Streams end as early as possible because a stream that is left open takes the client's answer with it when
this process dies. Every message is answered or the call fails: an end without an answer would let the
request go on undecided.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse

from extproc import messages
from extproc.context import Exchange, Forward, NeedBody, Outcome, Reply
from extproc.processor import METADATA, Processor, describe
from sidecar.errors import RpcError, StatusCode
from sidecar.rpc import CallContext, Service, Step, StreamMethod

SERVICE = "envoy.service.ext_proc.v3.ExternalProcessor"


class Observer(Protocol):
    """Told about every decision: how it ended and how long it took in this process (seconds)."""

    def decided_request(self, outcome: str, seconds: float) -> None:
        """`outcome` is `forward`, or the status of our own reply."""

    def message(self) -> None:
        """A message of a stream has arrived."""


class _Stream:
    """One request's stream."""

    __slots__ = ("_clock", "_exchange", "_observer", "_processor", "_seconds")

    def __init__(self, processor: Processor, clock: Callable[[], float], observer: Observer) -> None:
        self._processor = processor
        self._clock = clock
        self._observer = observer
        self._exchange: Exchange | None = None
        self._seconds = 0.0

    def on_message(self, message: ProcessingRequest) -> Step:
        started = self._clock()
        self._observer.message()
        phase = message.WhichOneof("request")
        if phase == "request_headers":
            self._exchange, outcome = self._processor.on_headers(messages.read_headers(message.request_headers))
        elif phase == "request_body" and self._exchange is not None:
            outcome = self._processor.on_body(self._exchange, message.request_body.body)
        else:
            raise RpcError(StatusCode.FAILED_PRECONDITION, f"not asked for in this order: {phase}")
        return self._answer(self._exchange, outcome, started)

    def _answer(self, exchange: Exchange, outcome: Outcome, started: float) -> Step:
        self._seconds += self._clock() - started
        if isinstance(outcome, NeedBody):
            return Step((messages.NEED_BODY,))
        if isinstance(outcome, Forward):
            facts, name = outcome.metadata, "forward"
        else:
            facts, name = describe(exchange), str(outcome.status)
        measured = {**facts, METADATA: {**facts[METADATA], "decision_us": round(self._seconds * 1e6)}}
        self._observer.decided_request(name, self._seconds)
        return Step((self._write(outcome, measured),), done=True)

    @staticmethod
    def _write(outcome: Forward | Reply, facts: messages.Facts) -> ProcessingResponse:
        if isinstance(outcome, Forward):
            return messages.write_forward(outcome, facts)
        return messages.write_reply(outcome, facts)

    def on_end(self) -> Step:
        # Only an answer ends a call well: a clean end without one would let the request go on undecided.
        raise RpcError(StatusCode.FAILED_PRECONDITION, "the stream ended before the request was decided")

    def on_close(self) -> None:
        self._exchange = None


def external_processor(processor: Processor, clock: Callable[[], float], observer: Observer) -> Service:
    """The service for `processor`. `clock` counts seconds and never goes back."""
    return Service(
        SERVICE,
        (StreamMethod("Process", ProcessingRequest, lambda _context: _opened(processor, clock, observer, _context)),),
    )


def _opened(processor: Processor, clock: Callable[[], float], observer: Observer, _context: CallContext) -> _Stream:
    return _Stream(processor, clock, observer)
