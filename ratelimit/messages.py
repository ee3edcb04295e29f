"""Protobuf to values and back, for RLS (envoy/service/ratelimit/v3/rls.proto)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue

from ratelimit.decision import Decision, LimitRequest, Status
from ratelimit.errors import RequestError
from ratelimit.rules import Descriptor, Rate, Rule, Unit
from ratelimit.wire import RateLimitRequest, RateLimitResponse
from sidecar.protowire import Encoded, integer, number, piece, struct_number, struct_text, tag, varint
from sidecar.rpc import decoded

DECISION_FIELD = "decision_us"  # metadata: our own time for the decision

_MOST = 0xFFFFFFFF  # the wire's numbers are uint32: what is more shows as this

_OK = RateLimitResponse.OK
_OVER = RateLimitResponse.OVER_LIMIT
_Status = RateLimitResponse.DescriptorStatus

# Replies are joined from parts that are encoded once (see sidecar.protowire).
_OVERALL_OK: bytes = RateLimitResponse(overall_code=_OK).SerializeToString()
_OVERALL_OVER: bytes = RateLimitResponse(overall_code=_OVER).SerializeToString()
_CODE_OK: bytes = _Status(code=_OK).SerializeToString()
_CODE_OVER: bytes = _Status(code=_OVER).SerializeToString()
_STATUSES = number(RateLimitResponse, "statuses")
_HEADERS = number(RateLimitResponse, "response_headers_to_add")
_RAW_BODY = number(RateLimitResponse, "raw_body")
_METADATA = number(RateLimitResponse, "dynamic_metadata")
_VALUE_TAG = tag(number(HeaderValue, "value"))
_REMAINING = number(_Status, "limit_remaining")
_REMAINING_TAG = tag(_REMAINING, 0)
_MOST_VERDICTS = 256  # of one rule


_LONGEST_KNOWN = 512  # bytes
_MOST_KNOWN = 10_000


class Payload:
    """What an engine hands over as a message: the bytes themselves (see `Requests`)."""

    @staticmethod
    def FromString(payload: bytes) -> bytes:  # noqa: N802 - the name that messages have
        """The bytes."""
        return payload


class Requests:
    """Requests by their bytes: the same few descriptors come again and again, and need to be read once."""

    def __init__(self) -> None:
        self._known: dict[bytes, LimitRequest] = {}

    def read(self, payload: bytes) -> LimitRequest:
        """The request. Raises `RequestError`, and `RpcError` for bytes that are none."""
        known = self._known.get(payload)
        if known is not None:
            return known
        request = read_request(decoded(RateLimitRequest, payload))
        if len(payload) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[payload] = request
        return request


@lru_cache(maxsize=256)
def reservation_field(label: str) -> str:
    """The metadata field that holds the reservation of the rule with this label."""
    return f"reservation.{label}"


def read_request(message: Any) -> LimitRequest:
    """A `wire.RateLimitRequest` as values. Raises `RequestError` for an override without a unit."""
    addend = message.hits_addend
    descriptors = tuple([_descriptor(one, addend) for one in message.descriptors])
    return LimitRequest(message.domain, descriptors, addend)


def _descriptor(message: Any, addend: int) -> Descriptor:
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    hits = message.hits_addend.value if message.HasField("hits_addend") else None
    if message.is_negative_hits:
        hits = -(hits if hits is not None else addend or 1)
    if not message.HasField("limit"):
        return Descriptor(entries, hits)
    try:
        unit = Unit(message.limit.unit)
    except ValueError:
        raise RequestError("rate limit override has no unit") from None
    return Descriptor(entries, hits, Rate(message.limit.requests_per_unit, unit))


def write_response(
    decision: Decision,
    headers: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    microseconds: int | None = None,
    described: bytes = b"",
) -> Encoded:
    """The decision as a message. `body` is what Envoy answers the client with when it is over the limit.

    A reservation goes into the dynamic metadata as `<hits>@<unix seconds>`, under `reservation.<label>`:
    Envoy hands it back in the entry that settles it. So does our own time, when `microseconds` tells it, and what is
    `described` (fields of a Struct, encoded).
    """
    statuses = decision.statuses
    if len(statuses) == 1 and not (decision.reservations or headers or body or described) and microseconds is None:
        return Encoded((_OVERALL_OVER if decision.over else _OVERALL_OK) + piece(_STATUSES, _status(statuses[0])))
    parts = [_OVERALL_OVER if decision.over else _OVERALL_OK]
    parts += [piece(_STATUSES, _status(status)) for status in statuses]
    parts += [_header(name, value) for name, value in headers]
    if body:
        parts.append(piece(_RAW_BODY, body))
    fields = [struct_text(reservation_field(label), str(settlement)) for label, settlement in decision.reservations]
    if described:
        fields.append(described)
    if microseconds is not None:
        fields.append(struct_number(DECISION_FIELD, microseconds))
    if fields:
        parts.append(piece(_METADATA, b"".join(fields)))
    return Encoded(b"".join(parts))


def _status(status: Status) -> bytes:
    rule, over, remaining, reset, _ = status
    if rule is None or rule.unlimited:
        return (_CODE_OVER if over else _CODE_OK) + integer(_REMAINING, remaining)
    # All but what remains is the same for every decision of a second.
    verdict = rule.memo.get((over, reset))
    if verdict is None:
        if len(rule.memo) >= _MOST_VERDICTS:
            rule.memo.clear()
        verdict = rule.memo[over, reset] = _verdict(over, rule, reset)
    if not remaining:
        return verdict
    return verdict + _REMAINING_TAG + varint(remaining if remaining <= _MOST else _MOST)


def _verdict(over: bool, rule: Rule, reset_seconds: int) -> bytes:
    limit = RateLimitResponse.RateLimit(
        requests_per_unit=min(rule.rate.amount, _MOST),
        unit=int(rule.rate.unit) if rule.rate.count == 1 else 0,  # UNKNOWN: the wire has no other windows
        name=rule.name,
    )
    status = _Status(code=_OVER if over else _OK, current_limit=limit)
    status.duration_until_reset.seconds = reset_seconds
    return bytes(status.SerializeToString())


def _header(name: str, value: str) -> bytes:
    """A `HeaderValue`. What remains of a limit is another text each time: so it is joined, and not remembered."""
    if not value:
        return piece(_HEADERS, _header_name(name))
    text = value.encode()
    return piece(_HEADERS, b"".join((_header_name(name), _VALUE_TAG, varint(len(text)), text)))


@lru_cache(maxsize=256)
def _header_name(name: str) -> bytes:
    return bytes(HeaderValue(key=name).SerializeToString())
