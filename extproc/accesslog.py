"""Envoy's gRPC access log (envoy/service/accesslog/v3): what became of each request, from Envoy's own data.

Entries come in batches, off the path of any request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from envoy.config.core.v3.base_pb2 import RequestMethod
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage, StreamAccessLogsResponse
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value

from extproc.processor import LIMITS_METADATA, METADATA, USAGE_METADATA
from ratelimit.messages import DECISION_FIELD
from sidecar.rpc import NOTHING, CallContext, Service, Step, StreamMethod

SERVICE = "envoy.service.accesslog.v3.AccessLogService"
RATELIMIT_METADATA = "envoy.filters.http.ratelimit"  # where Envoy keeps what the rate-limit service said


_METHODS = {value.number: name for name, value in RequestMethod.DESCRIPTOR.values_by_name.items()}


class RequestRecord(NamedTuple):
    """One finished request. Times are in seconds, None where there was none; tokens None when not reported.

    `reservation` is what the limits inside ext_proc reserved, `charged` the tokens to settle it with: what the provider
    reported, else the estimate, and 0 for an error.
    """

    request_id: str
    method: str
    path: str
    status: int
    key: str
    model: str
    provider: str
    target_model: str
    operation: str
    seconds: float
    upstream_seconds: float | None
    first_byte_seconds: float | None
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
    reservation: str = ""
    charged: int | None = None

    @property
    def overhead_seconds(self) -> float | None:
        """Our own time: every decision about this request."""
        if self.decision_seconds is None:
            return self.limit_seconds
        return self.decision_seconds + (self.limit_seconds or 0.0)


def read(entry: HTTPAccessLogEntry) -> RequestRecord:
    """The record of one log entry."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    facts = metadata[METADATA].fields if METADATA in metadata else {}
    usage = metadata[USAGE_METADATA].fields if USAGE_METADATA in metadata else {}
    detail = usage["detail"].struct_value.fields if "detail" in usage else {}
    flags = tuple(
        field.name
        for field, value in common.response_flags.ListFields()
        if field.name != "unauthorized_details" and value
    )
    first = _seconds(common, "time_to_first_upstream_rx_byte")
    sent = _seconds(common, "time_to_first_upstream_tx_byte")
    last = _seconds(common, "time_to_last_upstream_rx_byte")
    reported = "prompt" in detail or "completion" in detail
    decision = _number(facts, "decision_us")
    limits = metadata[LIMITS_METADATA].fields if LIMITS_METADATA in metadata else {}
    service = metadata[RATELIMIT_METADATA].fields if RATELIMIT_METADATA in metadata else {}
    limit = _number(service, DECISION_FIELD)
    return RequestRecord(
        request_id=entry.request.request_id,
        method=_METHODS.get(entry.request.request_method, ""),
        path=(entry.request.original_path or entry.request.path).partition("?")[0],
        status=entry.response.response_code.value,
        key=_text(facts, "key"),
        model=_text(facts, "model"),
        provider=_text(facts, "provider"),
        target_model=_text(facts, "target_model"),
        operation=_text(facts, "operation"),
        seconds=_duration(common.duration)
        if common.HasField("duration")
        else (_seconds(common, "time_to_last_downstream_tx_byte") or 0.0),
        upstream_seconds=last - sent if last is not None and sent is not None else None,
        first_byte_seconds=first,
        decision_seconds=decision / 1e6 if decision is not None else None,
        limit_seconds=limit / 1e6 if limit is not None else None,
        estimate=_whole(facts, "estimate"),
        total_tokens=_whole(usage, "total") if reported else None,
        prompt_tokens=_whole(detail, "prompt"),
        completion_tokens=_whole(detail, "completion"),
        cached_tokens=_whole(detail, "cached"),
        disconnected=common.response_flags.downstream_connection_termination,
        attempts=common.upstream_request_attempt_count,
        flags=flags,
        reservation=_text(limits, "reservation"),
        charged=_whole(usage, "total"),
    )


def _duration(value: Duration) -> float:
    return float(value.seconds + value.nanos / 1e9)


def _seconds(common: Any, field: str) -> float | None:
    return _duration(getattr(common, field)) if common.HasField(field) else None


def _number(fields: Mapping[str, Value], name: str) -> float | None:
    return fields[name].number_value if name in fields else None


def _whole(fields: Mapping[str, Value], name: str) -> int | None:
    return int(fields[name].number_value) if name in fields else None


def _text(fields: Mapping[str, Value], name: str) -> str:
    return fields[name].string_value if name in fields else ""


Sink: TypeAlias = Callable[[Sequence[RequestRecord]], Awaitable[None] | None]


class _Log:
    """One stream of log messages."""

    __slots__ = ("_sink",)

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def on_message(self, message: StreamAccessLogsMessage) -> Step | Awaitable[Step]:
        waiting = self._sink([read(entry) for entry in message.http_logs.log_entry])
        return NOTHING if waiting is None else self._later(waiting)

    @staticmethod
    async def _later(waiting: Awaitable[None]) -> Step:
        await waiting
        return NOTHING

    def on_end(self) -> Step:
        return Step((StreamAccessLogsResponse(),), done=True)

    def on_close(self) -> None:
        return


def access_log(sink: Sink) -> Service:
    """The service; finished requests go to `sink`, as many at a time as Envoy sends."""

    def opened(_context: CallContext) -> _Log:
        return _Log(sink)

    return Service(SERVICE, (StreamMethod("StreamAccessLogs", StreamAccessLogsMessage, opened, single_reply=True),))
