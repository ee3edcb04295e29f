"""Envoy's gRPC access log (envoy/service/accesslog/v3): what became of each request, from Envoy's own data.

Entries come in batches, off the path of any request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import structlog
from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogCommon,
    DownstreamPeriodic,
    DownstreamStart,
    DownstreamTunnelSuccessfullyEstablished,
    HTTPAccessLogEntry,
)
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value

from extproc.cache.usage import Usage
from extproc.messages import ORDER_METADATA
from extproc.processor import METADATA, USAGE_METADATA
from extproc.targets import Target
from ratelimit.messages import DECISION_FIELD, reservation_field
from sidecar.rpc import NOTHING, CallContext, Service, Step, StreamMethod

SERVICE = "envoy.service.accesslog.v3.AccessLogService"
_log = structlog.get_logger("headgate")
_RENDER_AGAIN = (
    "render Envoy's configuration again with the settings of this sidecar (`limits.enforce`, `limits.settle`)"
)
_SLICE = 8  # entries between two looks at what else there is to do: about a quarter of a millisecond
RATELIMIT_METADATA = "envoy.filters.http.ratelimit"  # where Envoy keeps what the rate-limit service said


TOKENS = "tokens"  # the limit that is settled
_RESERVED = reservation_field(TOKENS)
_NOTHING: Mapping[str, Value] = {}
# Entries about requests that have not ended: somebody's own Envoy may write them, too (`access_log_options`).
_UNFINISHED = frozenset({DownstreamStart, DownstreamPeriodic, DownstreamTunnelSuccessfullyEstablished})
_METHODS = {value.number: name for name, value in RequestMethod.DESCRIPTOR.values_by_name.items()}


class RequestRecord(NamedTuple):
    """One finished request. Times are in seconds, None where there was none; tokens None when not reported.

    `cluster`, `provider` and `target_model` say who was asked last: whoever served it. `route` is Envoy's name of the
    route, and `first_group` its group that was to be tried first, unless there was exactly one attempt.
    `first_byte_seconds` counts from the request, `answered_seconds` from the start of the attempt that was answered.
    `reservation` is what the limits reserved and nobody else settles, `charged` the tokens to settle it with: what the
    provider reported, else the estimate, and 0 for an error.
    """

    request_id: str
    method: str
    path: str
    status: int
    key: str
    model: str
    cluster: str
    route: str
    first_group: str
    provider: str
    target_model: str
    seconds: float
    upstream_seconds: float | None
    first_byte_seconds: float | None
    answered_seconds: float | None
    decision_seconds: float | None
    limit_seconds: float | None
    estimate: int | None
    total_tokens: int | None
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    disconnected: bool
    attempts: int
    flags: tuple[str, ...]
    worker: int | None = None  # which of several has decided it
    reservation: str = ""
    charged: int = 0

    @property
    def overhead_seconds(self) -> float | None:
        """Our own time: every decision about this request."""
        if self.decision_seconds is None:
            return self.limit_seconds
        return self.decision_seconds + (self.limit_seconds or 0.0)


def read(entry: HTTPAccessLogEntry, targets: Mapping[str, Target], *, settling: bool = False) -> RequestRecord:
    """The record of one log entry. `targets` knows who Envoy's clusters are. `settling`: Envoy does not itself settle
    what the rate-limit service has reserved."""
    common, request = entry.common_properties, entry.request
    metadata = common.metadata.filter_metadata
    facts = metadata[METADATA].fields if METADATA in metadata else _NOTHING
    usage = metadata[USAGE_METADATA].fields if USAGE_METADATA in metadata else _NOTHING
    service = metadata[RATELIMIT_METADATA].fields if RATELIMIT_METADATA in metadata else _NOTHING
    found, prompt, completion, cached = _detail(_text(usage, "detail"))
    path = (request.original_path or request.path).partition("?")[0]
    estimate = _whole(facts, "estimate")
    total = found if found is not None else _whole(usage, "total")
    sent, last = _seconds(common.time_to_first_upstream_tx_byte), _seconds(common.time_to_last_upstream_rx_byte)
    first = _seconds(common.time_to_first_upstream_rx_byte)
    target = targets.get(common.upstream_cluster.partition("+")[0])
    decision, limit = _number(facts, "decision_us"), _number(service, DECISION_FIELD)
    disconnected, flags = _flags(common) if common.HasField("response_flags") else (False, ())
    model = _text(facts, "model")
    return RequestRecord(
        request_id=request.request_id,
        method=_METHODS.get(request.request_method, ""),
        path=path,
        status=entry.response.response_code.value,
        key=_text(facts, "key"),
        model=model,
        cluster=target.cluster if target is not None else "",
        route=common.route_name,
        first_group=_first_group(metadata) if common.upstream_request_attempt_count != 1 else "",
        provider=target.provider if target is not None else "",
        target_model=target.model if target is not None else model,
        seconds=_seconds(common.duration) or _seconds(common.time_to_last_downstream_tx_byte) or 0.0,
        upstream_seconds=last - sent if last is not None and sent is not None else None,
        first_byte_seconds=first,
        answered_seconds=first - sent if first is not None and sent is not None else None,
        decision_seconds=decision / 1e6 if decision is not None else None,
        limit_seconds=limit / 1e6 if limit is not None else None,
        estimate=estimate,
        total_tokens=None if prompt is None and completion is None else total,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=cached,
        disconnected=disconnected,
        attempts=common.upstream_request_attempt_count,
        flags=flags,
        worker=_whole(facts, "worker"),
        reservation=_text(facts, "reservation") or (_text(service, _RESERVED) if settling else ""),
        charged=total if total is not None else estimate or 0,
    )


def _first_group(metadata: Mapping[str, Struct]) -> str:
    """The group of the route that was tried first, where ext_proc has named an order."""
    if ORDER_METADATA not in metadata:
        return ""
    groups = metadata[ORDER_METADATA].fields["priority_groups"].list_value.values
    return str(groups[0].struct_value.fields["name"].string_value) if groups else ""


def metered(usage: Mapping[str, Value]) -> Usage:
    """The tokens of the answer, as the meter wrote them into its metadata."""
    total, prompt, completion, _ = _detail(_text(usage, "detail"))
    return Usage(total, prompt, completion)


def _detail(text: str) -> tuple[int | None, int | None, int | None, int | None]:
    """Total, prompt, completion and cached tokens as the meter wrote them; nothing when it saw no usage."""
    if not text:
        return None, None, None, None
    try:
        total, prompt, completion, cached = [None if part == "-" else int(part) for part in text.split(" ")]
    except ValueError:  # of an older meter, that wrote large numbers as 1e+14
        return None, None, None, None
    return total, prompt, completion, cached


def _flags(common: AccessLogCommon) -> tuple[bool, tuple[str, ...]]:
    """Whether the client left, and the names of all of Envoy's flags."""
    flags = tuple(
        field.name
        for field, value in common.response_flags.ListFields()
        if field.name != "unauthorized_details" and value
    )
    return common.response_flags.downstream_connection_termination, flags


def _seconds(value: Duration) -> float | None:
    """A duration; None when Envoy has not set it."""
    seconds = float(value.seconds + value.nanos / 1e9)
    return seconds or None


def _number(fields: Mapping[str, Value], name: str) -> float | None:
    return fields[name].number_value if name in fields else None


def _whole(fields: Mapping[str, Value], name: str) -> int | None:
    return int(fields[name].number_value) if name in fields else None


def _text(fields: Mapping[str, Value], name: str) -> str:
    return fields[name].string_value if name in fields else ""


Sink: TypeAlias = Callable[[Sequence[RequestRecord]], Awaitable[None] | None]
AttemptSink: TypeAlias = Callable[[Sequence[HTTPAccessLogEntry]], None]
ATTEMPT_LOG = "headgate.attempts"  # the log of failed attempts
ANSWER_LOG = "headgate.answers"  # the log of requests whose answers are to be kept
# How a log's name ends, by which Envoy's configuration tells what it takes us to do.
SETTLING = "+settle"  # what its ratelimit filter has reserved is settled from this log
DECIDED = "+in_process"  # there is no such filter: ext_proc decides the limits


class Answers(Protocol):
    """Told of requests whose answers are to be kept."""

    def take(self, entry: HTTPAccessLogEntry) -> None:
        """Such a request has ended."""

    def gone(self) -> None:
        """The log has broken off."""


class _Log:
    """One stream of log messages: of requests, those whose answers are to be kept apart, or of failed attempts."""

    __slots__ = ("_able", "_answers", "_attempts", "_ended", "_kind", "_settling", "_sink", "_targets")

    def __init__(
        self,
        sink: Sink,
        attempts: AttemptSink,
        targets: Callable[[], Mapping[str, Target]],
        answers: Answers | None,
        able: Collection[str],
    ) -> None:
        self._able = able
        self._sink = sink
        self._attempts = attempts
        self._targets = targets
        self._answers = answers
        self._kind = ""
        self._settling = False
        self._ended = False

    def on_message(self, message: StreamAccessLogsMessage) -> Step | Awaitable[Step]:
        entries = message.http_logs.log_entry
        if message.identifier.log_name:  # only the first message of a stream has one
            self._kind, plus, told = message.identifier.log_name.partition("+")
            self._settling = plus + told == SETTLING
            if plus and plus + told not in self._able:
                _log.error("envoy_expects_something_else", log=message.identifier.log_name, mend=_RENDER_AGAIN)
        if self._kind == ATTEMPT_LOG:
            self._attempts(entries)
            return NOTHING
        if len(entries) > _SLICE:
            return self._in_slices(entries)
        waiting = self._take(entries)
        return NOTHING if waiting is None else self._later(waiting)

    def _take(self, entries: Sequence[HTTPAccessLogEntry]) -> Awaitable[None] | None:
        entries = [one for one in entries if one.common_properties.access_log_type not in _UNFINISHED]
        if self._kind == ANSWER_LOG and self._answers is not None:
            for entry in entries:
                self._answers.take(entry)
        targets = self._targets()
        settling = self._settling
        return self._sink([read(entry, targets, settling=settling) for entry in entries])

    async def _in_slices(self, entries: Sequence[HTTPAccessLogEntry]) -> Step:
        """A few at a time: decisions that come meanwhile must not wait for a whole batch."""
        for start in range(0, len(entries), _SLICE):
            waiting = self._take(entries[start : start + _SLICE])
            if waiting is not None:
                await waiting
            await asyncio.sleep(0)
        return NOTHING

    @staticmethod
    async def _later(waiting: Awaitable[None]) -> Step:
        await waiting
        return NOTHING

    def on_end(self) -> Step:
        self._ended = True
        return Step((StreamAccessLogsResponse(),), done=True)

    def on_close(self) -> None:
        if self._kind == ANSWER_LOG and self._answers is not None and not self._ended:
            self._answers.gone()


def access_log(
    sink: Sink,
    attempts: AttemptSink,
    targets: Callable[[], Mapping[str, Target]],
    answers: Answers | None = None,
    able: Collection[str] = (SETTLING, DECIDED),
) -> Service:
    """The service; finished requests go to `sink` and failed attempts to `attempts`, as many as Envoy sends at once.

    `targets` gives the targets by their clusters, those of an older configuration included. `answers` is told first of
    what is to be kept. What Envoy takes us to do and we are not `able` to, is an error in our log: limits do not hold.
    """

    def opened(_context: CallContext) -> _Log:
        return _Log(sink, attempts, targets, answers, able)

    method = StreamMethod("StreamAccessLogs", StreamAccessLogsMessage, opened, single_reply=True, lasting=True)
    return Service(SERVICE, (method,))
