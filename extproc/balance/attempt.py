"""A failed attempt, as Envoy's access log of upstream requests tells of it."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from envoy.config.core.v3.address_pb2 import Address
from envoy.data.accesslog.v3.accesslog_pb2 import AccessLogCommon, HTTPAccessLogEntry, ResponseFlags

from extproc.balance import waits

ANSWER_HEADERS = waits.HEADERS  # what Envoy is to log of a provider's answer

_SWITCHED = 101  # a WebSocket was opened: that is the answer, and who ends it, and how, is a matter of the session


class Reason(StrEnum):
    """Why an attempt failed: a small closed set, for the labels of metrics."""

    CONNECT = "connect"  # no connection, for another cause than the next two
    DNS = "dns"  # the name has no address
    TLS = "tls"  # no handshake
    RESET = "reset"  # the connection or the stream broke
    TIMEOUT = "timeout"  # Envoy stopped waiting
    RATE_LIMITED = "rate_limited"  # 429
    OVERLOADED = "overloaded"  # 503, 529, or as many requests in flight as Envoy allows
    SERVER_ERROR = "server_error"  # any other 5xx
    REFUSED = "refused"  # 401, 402, 403: the key or the account is not welcome
    STATUS = "status"  # any other answer
    CANCELLED = "cancelled"  # the client left, or a WebSocket ended: nothing is known of the target


class Attempt(NamedTuple):
    """`status` is 0 without an answer; `retry_after` how long the provider asks to wait, None if it does not.

    `seconds` is how long the attempt took.
    """

    cluster: str
    reason: Reason
    status: int = 0
    retry_after: float | None = None
    seconds: float = 0.0


def read(entry: HTTPAccessLogEntry, now: float) -> Attempt:
    """The attempt of one log entry. `now` is in unix seconds, for providers that name a date."""
    common, response = entry.common_properties, entry.response
    status = response.response_code.value
    reason = _reason(common, status)
    retry_after = None
    if status >= 400 and response.response_headers:
        retry_after = waits.wait(response.response_headers, now, rate_limited=reason is Reason.RATE_LIMITED)
    seconds = max(0.0, common.duration.seconds + common.duration.nanos / 1e9)
    return Attempt(common.upstream_cluster, reason, status, retry_after, seconds)


def _reason(common: AccessLogCommon, status: int) -> Reason:
    """Without any flag there was an answer, or nobody knows.

    When a client leaves, Envoy 1.40 sets no flag in the log of the attempt; nor when the route's timeout ends (a
    timeout per try does). The two look alike, and clients who leave must not take a target away from everybody.
    """
    flags = common.response_flags
    left = flags.downstream_connection_termination or flags.downstream_remote_reset
    if (left and status < 400) or status == _SWITCHED:
        return Reason.CANCELLED
    return _without_answer(common, flags) or _of_status(status)


def _without_answer(common: AccessLogCommon, flags: ResponseFlags) -> Reason | None:
    """What Envoy's flags say. They come first: an answer that began well may have broken off."""
    if flags.dns_resolution_failure or flags.no_healthy_upstream or _is_tombstone(common.upstream_remote_address):
        return Reason.DNS
    if flags.upstream_connection_failure:
        failure = common.upstream_transport_failure_reason.upper()
        return Reason.TLS if "TLS" in failure or "SSL" in failure or "CERTIFICATE" in failure else Reason.CONNECT
    if (
        flags.upstream_request_timeout
        or flags.stream_idle_timeout
        or flags.duration_timeout
        or flags.upstream_max_stream_duration_reached
    ):
        return Reason.TIMEOUT
    if flags.upstream_overflow:
        return Reason.OVERLOADED
    if (
        flags.upstream_connection_termination
        or flags.upstream_remote_reset
        or flags.local_reset
        or flags.upstream_protocol_error
    ):
        return Reason.RESET
    return None


def _is_tombstone(address: Address) -> bool:
    """The endpoint that stands in for a name without an address."""
    place = address.socket_address
    return bool(address.HasField("socket_address") and place.port_value == 0 and place.address == "127.0.0.1")


def _of_status(status: int) -> Reason:
    if status < 400:
        return Reason.CANCELLED
    if status == 429:
        return Reason.RATE_LIMITED
    if status in (503, 529):
        return Reason.OVERLOADED
    if status >= 500:
        return Reason.SERVER_ERROR
    return Reason.REFUSED if status in (401, 402, 403) else Reason.STATUS
