"""What is read from Envoy's access log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
import structlog.testing
from envoy.data.accesslog.v3.accesslog_pb2 import (
    AccessLogType,
    DownstreamEnd,
    DownstreamPeriodic,
    DownstreamStart,
    DownstreamTunnelSuccessfullyEstablished,
    HTTPAccessLogEntry,
)
from envoy.service.accesslog.v3.als_pb2 import StreamAccessLogsMessage

from extproc.accesslog import DECIDED, SETTLING, RequestRecord, access_log, read
from sidecar.rpc import NOTHING, CallContext, StreamMethod


def entry() -> HTTPAccessLogEntry:
    made = HTTPAccessLogEntry()
    made.request.request_id = "id"
    made.request.request_method = 3
    made.request.path = "/v1/chat/completions?secret=1"
    made.response.response_code.value = 200
    common = made.common_properties
    common.duration.FromMilliseconds(250)
    common.time_to_first_upstream_tx_byte.FromMilliseconds(10)
    common.time_to_first_upstream_rx_byte.FromMilliseconds(60)
    common.time_to_last_upstream_rx_byte.FromMilliseconds(210)
    common.metadata.filter_metadata["headgate"].update({"key": "a", "model": "m", "estimate": 300, "decision_us": 150})
    common.metadata.filter_metadata["headgate.usage"].update({"total": 12, "detail": "12 2 10 -"})
    return made


def test_a_whole_entry() -> None:
    record = read(entry(), {})
    assert (record.request_id, record.method, record.path, record.status) == ("id", "POST", "/v1/chat/completions", 200)
    assert (record.key, record.model, record.provider) == ("a", "m", "")
    assert (record.total_tokens, record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (
        12,
        2,
        10,
        None,
    )
    assert (record.seconds, record.first_byte_seconds, record.estimate) == (0.25, 0.06, 300)
    assert record.upstream_seconds is not None
    assert abs(record.upstream_seconds - 0.2) < 1e-9
    assert record.decision_seconds == 150 / 1e6


def test_a_seeded_total_is_no_usage() -> None:
    made = entry()
    del made.common_properties.metadata.filter_metadata["headgate.usage"]
    made.common_properties.metadata.filter_metadata["headgate.usage"].update({"total": 300})
    record = read(made, {})
    assert (record.total_tokens, record.charged) == (None, 300)


def test_what_is_charged_without_any_usage_is_the_estimate() -> None:
    made = entry()
    del made.common_properties.metadata.filter_metadata["headgate.usage"]
    assert read(made, {}).charged == 300


@pytest.mark.parametrize(("settling", "reservation"), [(True, "300@1790000000"), (False, "")])
def test_what_the_service_reserved_is_settled_only_from_a_log_that_says_so(settling: bool, reservation: str) -> None:
    made = entry()
    service = made.common_properties.metadata.filter_metadata["envoy.filters.http.ratelimit"]
    service.update({"reservation.requests": "1@1790000000", "reservation.tokens": "300@1790000000"})
    record = read(made, {}, settling=settling)
    assert (record.reservation, record.charged) == (reservation, 12)


@pytest.mark.parametrize(
    ("log", "settled"),
    [
        ("headgate", ""),
        ("headgate+settle", "5@1"),
        ("headgate+in_process", ""),
        ("headgate.answers", ""),
        ("headgate.answers+settle", "5@1"),
    ],
)
def test_the_name_of_a_log_says_whether_envoy_settles(log: str, settled: str) -> None:
    seen: list[RequestRecord] = []
    method = access_log(seen.extend, lambda _: None, dict).methods[0]
    assert isinstance(method, StreamMethod)
    stream = method.open(CallContext("/x"))
    message = StreamAccessLogsMessage()
    message.identifier.log_name = log
    made = entry()
    made.common_properties.metadata.filter_metadata["envoy.filters.http.ratelimit"].update(
        {"reservation.tokens": "5@1"}
    )
    message.http_logs.log_entry.append(made)
    stream.on_message(message)
    message.ClearField("identifier")
    stream.on_message(message)
    assert [one.reservation for one in seen] == [settled, settled]


@pytest.mark.parametrize(
    ("log", "able", "said"),
    [
        ("headgate+in_process", [SETTLING], True),
        ("headgate+settle", [DECIDED], True),
        ("headgate+settle", [SETTLING, DECIDED], False),
        ("headgate", [], False),
    ],
)
def test_limits_that_nobody_holds_are_an_error_in_the_log(log: str, able: list[str], said: bool) -> None:
    method = access_log(lambda _: None, lambda _: None, dict, able=able).methods[0]
    assert isinstance(method, StreamMethod)
    message = StreamAccessLogsMessage()
    message.identifier.log_name = log
    with structlog.testing.capture_logs() as logs:
        method.open(CallContext("/x")).on_message(message)
    assert [(one["event"], one["log_level"]) for one in logs] == [("envoy_expects_something_else", "error")] * said


@pytest.mark.parametrize("kind", [DownstreamStart, DownstreamPeriodic, DownstreamTunnelSuccessfullyEstablished])
def test_what_has_not_ended_is_passed_over(kind: AccessLogType) -> None:
    """Somebody's own Envoy may log requests while they run: each entry would settle once more."""
    seen: list[RequestRecord] = []
    method = access_log(seen.extend, lambda _: None, dict).methods[0]
    assert isinstance(method, StreamMethod)
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend([entry(), entry()])
    message.http_logs.log_entry[0].common_properties.access_log_type = kind
    message.http_logs.log_entry[1].common_properties.access_log_type = DownstreamEnd
    method.open(CallContext("/x")).on_message(message)
    assert len(seen) == 1


def test_a_number_that_is_none_costs_no_other_entry_anything() -> None:
    made = entry()
    made.common_properties.metadata.filter_metadata["headgate.usage"].update({"detail": "12 1e+14 inf -"})
    assert (read(made, {}).total_tokens, read(made, {}).charged) == (None, 12)


def test_the_time_of_both_services_is_ours() -> None:
    made = entry()
    made.common_properties.metadata.filter_metadata["envoy.filters.http.ratelimit"].update({"decision_us": 50})
    assert read(made, {}).overhead_seconds == pytest.approx(200 / 1e6)
    assert read(HTTPAccessLogEntry(), {}).overhead_seconds is None


def test_an_empty_entry() -> None:
    record = read(HTTPAccessLogEntry(), {})
    assert (record.status, record.seconds, record.upstream_seconds, record.flags) == (0, 0.0, None, ())


def test_flags_are_named() -> None:
    made = entry()
    made.common_properties.response_flags.upstream_request_timeout = True
    made.common_properties.response_flags.downstream_connection_termination = True
    record = read(made, {})
    assert record.disconnected
    assert set(record.flags) == {"upstream_request_timeout", "downstream_connection_termination"}


def test_every_entry_of_a_message_reaches_the_sink() -> None:
    seen: list[RequestRecord] = []
    method = access_log(seen.extend, lambda _: None, dict).methods[0]
    assert isinstance(method, StreamMethod)
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend([entry(), entry()])
    assert method.open(CallContext("/x")).on_message(message) is NOTHING
    assert len(seen) == 2


async def test_a_large_batch_lets_decisions_pass_between_its_slices() -> None:
    seen: list[int] = []
    turns: list[int] = []
    method = access_log(lambda records: seen.append(len(records)), lambda _: None, dict).methods[0]
    assert isinstance(method, StreamMethod)
    message = StreamAccessLogsMessage()
    message.http_logs.log_entry.extend([entry()] * 20)
    step = method.open(CallContext("/x")).on_message(message)
    assert isinstance(step, Awaitable)

    async def decide() -> None:
        for _ in range(2):
            turns.append(len(seen))
            await asyncio.sleep(0)

    done, _ = await asyncio.gather(step, decide())
    assert done is NOTHING
    assert seen == [8, 8, 4]
    assert turns == [1, 2]
