"""What a log entry says of a failed attempt."""

from __future__ import annotations

import pytest
from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry
from hypothesis import given
from hypothesis import strategies as st

from extproc.balance.attempt import ANSWER_HEADERS, Attempt, Reason, read

NOON = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC


def entry(status: int = 0, *flags: str, failure: str = "", **headers: str) -> HTTPAccessLogEntry:
    made = HTTPAccessLogEntry()
    common = made.common_properties
    common.upstream_cluster = "a"
    common.duration.FromMilliseconds(250)
    common.upstream_transport_failure_reason = failure
    for flag in flags:
        setattr(common.response_flags, flag, True)
    made.response.response_code.value = status
    for name, value in headers.items():
        made.response.response_headers[name.replace("_", "-")] = value
    return made


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (entry(429), Reason.RATE_LIMITED),
        (entry(503), Reason.OVERLOADED),
        (entry(529), Reason.OVERLOADED),
        (entry(500), Reason.SERVER_ERROR),
        (entry(504), Reason.SERVER_ERROR),
        (entry(401), Reason.REFUSED),
        (entry(403), Reason.REFUSED),
        (entry(408), Reason.STATUS),
        (entry(200), Reason.CANCELLED),
        (entry(0), Reason.CANCELLED),
        (entry(0, "upstream_connection_failure", failure="delayed_connect_error:_Connection_refused"), Reason.CONNECT),
        (
            entry(
                0, "upstream_connection_failure", failure="TLS_error:|268435581:SSL_routines:CERTIFICATE_VERIFY_FAILED"
            ),
            Reason.TLS,
        ),
        (entry(503, "upstream_connection_failure"), Reason.CONNECT),
        (entry(0, "upstream_connection_termination"), Reason.RESET),
        (entry(200, "upstream_remote_reset"), Reason.RESET),
        (entry(0, "local_reset"), Reason.RESET),
        (entry(0, "upstream_protocol_error"), Reason.RESET),
        (entry(0, "upstream_request_timeout"), Reason.TIMEOUT),
        (entry(200, "stream_idle_timeout"), Reason.TIMEOUT),
        (entry(0, "upstream_overflow"), Reason.OVERLOADED),
        (entry(0, "dns_resolution_failure"), Reason.DNS),
        (entry(0, "no_healthy_upstream"), Reason.DNS),
        (entry(0, "downstream_connection_termination"), Reason.CANCELLED),
        (entry(200, "downstream_connection_termination", "local_reset"), Reason.CANCELLED),
        (entry(500, "downstream_connection_termination"), Reason.SERVER_ERROR),
    ],
)
def test_reasons(made: HTTPAccessLogEntry, reason: Reason) -> None:
    status = made.response.response_code.value
    assert read(made, NOON) == Attempt("a", reason, status, None, 0.25)


def test_the_tombstone_of_a_name_without_an_address_is_dns() -> None:
    made = entry(0, "upstream_connection_failure", failure="delayed_connect_error:_Connection_refused")
    address = made.common_properties.upstream_remote_address.socket_address
    address.address, address.port_value = "127.0.0.1", 0
    assert read(made, NOON).reason is Reason.DNS
    address.port_value = 8080
    assert read(made, NOON).reason is Reason.CONNECT


def test_an_empty_entry() -> None:
    assert read(HTTPAccessLogEntry(), NOON) == Attempt("", Reason.CANCELLED)


def test_how_long_to_wait() -> None:
    assert read(entry(429, retry_after="7"), NOON).retry_after == 7
    assert read(entry(503, retry_after="7"), NOON).retry_after == 7
    assert read(entry(429), NOON).retry_after is None
    assert read(entry(200, "upstream_remote_reset", retry_after="7"), NOON).retry_after is None


def test_only_a_rate_limit_is_read_from_its_own_headers() -> None:
    headers = {"x_ratelimit_remaining_tokens": "0", "x_ratelimit_reset_tokens": "6m0s"}
    assert read(entry(429, **headers), NOON).retry_after == 360
    assert read(entry(500, **headers), NOON).retry_after is None


@given(st.dictionaries(st.sampled_from(ANSWER_HEADERS), st.text(max_size=30)), st.integers(0, 999))
def test_no_answer_raises(headers: dict[str, str], status: int) -> None:
    made = entry(status)
    for name, value in headers.items():
        made.response.response_headers[name] = value
    wait = read(made, NOON).retry_after
    assert wait is None or 0 <= wait <= 86_400
