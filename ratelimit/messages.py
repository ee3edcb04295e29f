"""Protobuf to values and back, for RLS (envoy/service/ratelimit/v3/rls.proto)."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3.rls_pb2 import RateLimitRequest, RateLimitResponse

from ratelimit.errors import RequestError
from ratelimit.limiter import Decision, LimitRequest, Status
from ratelimit.rules import Descriptor, Rate, Unit

_OK = RateLimitResponse.OK
_OVER = RateLimitResponse.OVER_LIMIT


def reservation_field(label: str) -> str:
    """The metadata field that holds the reservation of the rule with this label."""
    return f"reservation.{label}"


def read_request(message: RateLimitRequest) -> LimitRequest:
    """The request as values. Raises `RequestError` for an override without a unit."""
    descriptors = tuple(_descriptor(one) for one in message.descriptors)
    return LimitRequest(message.domain, descriptors, message.hits_addend)


def _descriptor(message: ratelimit_pb2.RateLimitDescriptor) -> Descriptor:
    entries = tuple((entry.key, entry.value) for entry in message.entries)
    hits = message.hits_addend.value if message.HasField("hits_addend") else None
    if not message.HasField("limit"):
        return Descriptor(entries, hits)
    try:
        unit = Unit(message.limit.unit)
    except ValueError:
        raise RequestError("rate limit override has no unit") from None
    return Descriptor(entries, hits, Rate(message.limit.requests_per_unit, unit))


def write_response(decision: Decision, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> RateLimitResponse:
    """The decision as a message. `body` is what Envoy answers the client with when it is over the limit.

    A reservation goes into the dynamic metadata as `<hits>@<unix seconds>`, under `reservation.<label>`:
    Envoy hands it back in the entry that settles it.
    """
    message = RateLimitResponse(overall_code=_OVER if decision.over else _OK)
    for status in decision.statuses:
        _write_status(message.statuses.add(), status)
    for name, value in headers:
        message.response_headers_to_add.add(key=name, value=value)
    if body:
        message.raw_body = body
    for label, settlement in decision.reservations:
        message.dynamic_metadata[reservation_field(label)] = str(settlement)
    return message


def _write_status(message: RateLimitResponse.DescriptorStatus, status: Status) -> None:
    message.code = _OVER if status.over else _OK
    message.limit_remaining = status.remaining
    rate = status.rate
    if rate is None:
        return
    assert status.rule is not None
    message.current_limit.requests_per_unit = rate.amount
    message.current_limit.unit = int(rate.unit)
    message.current_limit.name = status.rule.name
    message.duration_until_reset.seconds = status.reset_seconds
