"""Protobuf to values and back, for ext_proc (envoy/service/ext_proc/v3/external_processor.proto).

Replies are joined from parts that are encoded once (`sidecar.protowire`): of a reply's some thirty fields only three or
four differ from request to request.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Any

from envoy.config.core.v3.base_pb2 import HeaderValue, HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import (
    BodyMutation,
    BodyResponse,
    CommonResponse,
    HeaderMutation,
    HttpBody,
    HttpHeaders,
    ImmediateResponse,
    ProcessingRequest,
    ProcessingResponse,
    StreamedBodyResponse,
)
from envoy.type.v3.http_status_pb2 import HttpStatus
from google.protobuf.struct_pb2 import Struct

from extproc.context import Facts, Forward, MetadataValue, Reply, RequestHeaders
from sidecar.protowire import (
    Encoded,
    head,
    number,
    piece,
    read_head,
    struct_number,
    struct_of,
    struct_text,
    struct_true,
    tag,
)
from sidecar.rpc import decoded

_REQUEST_HEADERS = number(ProcessingResponse, "request_headers")
_REQUEST_BODY = number(ProcessingResponse, "request_body")
_REQUEST_FIELD = number(ProcessingRequest, "request_body")
_HEAD_TAG = tag(number(ProcessingRequest, "request_headers"))[0]
# What Envoy writes before the digits of a request's content-length, and before their number.
_LENGTH_HEADER = piece(number(HeaderValue, "key"), b"content-length") + tag(number(HeaderValue, "raw_value"))
_HTTP_BODY = number(HttpBody, "body")
_METADATA = number(ProcessingResponse, "dynamic_metadata")
_RESPONSE = number(BodyResponse, "response")
_HEADER_MUTATION = number(CommonResponse, "header_mutation")
_BODY_MUTATION = number(CommonResponse, "body_mutation")
_BODY = number(BodyMutation, "body")
_SET_HEADERS = number(HeaderMutation, "set_headers")
_IMMEDIATE = number(ProcessingResponse, "immediate_response")
_IMMEDIATE_HEADERS = number(ImmediateResponse, "headers")
ORDER_METADATA = "headgate.order"
# ProcessingResponse.streamed_immediate_response, which the generated messages do not know yet: it holds HttpHeaders
# (1), then StreamedBodyResponses (2).
_STREAMED, _STREAMED_HEAD, _STREAMED_BODY = 11, 1, 2
_LAST_PIECE = bytes(StreamedBodyResponse(end_of_stream=True).SerializeToString())
_LONGEST_KEPT = 512  # bytes of the values in a mutation that is remembered
_LARGEST_KEPT = 8192  # bytes of a body whose reply is remembered
AGE = "age"  # the header that differs from reply to reply
_FRESH_ROUTE = CommonResponse(clear_route_cache=True).SerializeToString()


def _need_body() -> ProcessingResponse:
    message = ProcessingResponse()
    message.request_headers.SetInParent()
    message.mode_override.request_header_mode = ProcessingMode.SEND
    message.mode_override.request_body_mode = ProcessingMode.BUFFERED
    message.mode_override.request_trailer_mode = ProcessingMode.SKIP
    message.mode_override.response_header_mode = ProcessingMode.SKIP
    message.mode_override.response_body_mode = ProcessingMode.NONE
    message.mode_override.response_trailer_mode = ProcessingMode.SKIP
    return message


NEED_BODY = Encoded(_need_body().SerializeToString())


def more_time(seconds: float) -> Encoded:
    """Ask Envoy to wait so long from now on for the answer to its message, at most as long as its
    `max_message_timeout` allows. Once per message."""
    message = ProcessingResponse()
    message.override_message_timeout.FromMilliseconds(max(1, round(seconds * 1000)))
    return Encoded(message.SerializeToString())


_LARGE = 1 << 18  # bytes of a message that is not made an object of
_LONGEST_HEAD = 1024  # bytes of a head that may be one of those that come again
_MOST_DIGITS = 15
_ZEROS = b"0" * _MOST_DIGITS


class Request:
    """What Envoy sends. Of a large body only one copy is made: as an object, a message holds a second one."""

    @staticmethod
    def FromString(payload: bytes) -> Any:  # noqa: N802 - the name that messages have
        """The message, a `Head` or a `LargeBody`. Raises `DecodeError`; a `Head` is read later."""
        if len(payload) >= _LARGE:
            body = _large_body(payload)
            if body is not None:
                return body
        elif len(payload) <= _LONGEST_HEAD and payload and payload[0] == _HEAD_TAG:
            return Head(payload)
        return ProcessingRequest.FromString(payload)


class Head:
    """A message that begins with `request_headers`, read only when nobody remembers what it says.

    `length` is the value of its content-length (empty without one), and `mark` a digest of all else: two heads with the
    same mark say the same but for these digits. So they are looked for as Envoy writes them, in one place only, and
    zeros stand there in what is digested. Credentials are in it as a digest only.
    """

    __slots__ = ("_payload", "length", "mark")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.length = b""
        rest = payload
        at = payload.find(_LENGTH_HEADER) + len(_LENGTH_HEADER)
        if len(_LENGTH_HEADER) <= at < len(payload) and payload.find(_LENGTH_HEADER, at) < 0:
            size = payload[at]
            end = at + 1 + size
            digits = payload[at + 1 : end]
            if digits.isdigit() and len(digits) == size <= _MOST_DIGITS:
                self.length = digits
                rest = payload[: at + 1] + _ZEROS[:size] + payload[end:]
        self.mark = sha256(rest).digest()

    def whole(self) -> ProcessingRequest:
        """The message. Raises `RpcError`."""
        return decoded(ProcessingRequest, self._payload)


class LargeBody:
    """A `request_body` message that is read once: who takes the body holds the only copy."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def WhichOneof(self, _name: str) -> str:  # noqa: N802 - the name that messages have
        """As messages say it."""
        return "request_body"

    @property
    def request_body(self) -> LargeBody:
        """As messages have it."""
        return self

    @property
    def body(self) -> bytes:
        """The bytes; nothing is left here."""
        body, self._body = self._body, b""
        return body


def _large_body(payload: bytes) -> LargeBody | None:
    """The body, where the message begins with it as Envoy writes it; None leaves the message to protobuf."""
    found = read_head(payload, 0)
    if found is None or found[0] != _REQUEST_FIELD:
        return None
    _, start, end = found
    inner = read_head(payload, start)
    if inner is None or inner[0] != _HTTP_BODY or inner[2] > end:
        return None
    return LargeBody(payload[inner[1] : inner[2]])


def read_headers(message: HttpHeaders) -> RequestHeaders:
    """The headers as values. Envoy fills `raw_value`; `value` is read for older senders."""
    fields: dict[str, tuple[bytes, ...]] = {}
    for header in message.headers.headers:
        value = header.raw_value or header.value.encode()
        name = header.key
        fields[name] = (*fields[name], value) if name in fields else (value,)
    return RequestHeaders(fields, message.end_of_stream)


def _option(name: str, value: str) -> bytes:
    option = HeaderValueOption(
        header=HeaderValue(key=name, raw_value=value.encode()),
        append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return bytes(option.SerializeToString())


@lru_cache(maxsize=64)
def _removals(names: tuple[str, ...]) -> bytes:
    return bytes(HeaderMutation(remove_headers=names).SerializeToString())


def _mutation(set_headers: tuple[tuple[str, str], ...], remove: tuple[str, ...] = ()) -> bytes:
    """A HeaderMutation."""
    # A path may end in a client's query: what is long is not kept.
    short = sum([len(value) for _, value in set_headers]) <= _LONGEST_KEPT
    return (_kept_mutation if short else _write_mutation)(set_headers, remove)


def _write_mutation(set_headers: tuple[tuple[str, str], ...], remove: tuple[str, ...]) -> bytes:
    return b"".join([piece(_SET_HEADERS, _option(name, value)) for name, value in set_headers]) + _removals(remove)


_kept_mutation = lru_cache(maxsize=1024)(_write_mutation)


def write_reply(reply: Reply, facts: Facts) -> Encoded:
    """An immediate response. Works in every phase."""
    lasting = tuple([one for one in reply.headers if one[0] != AGE])
    write = _kept_immediate if len(reply.body) <= _LARGEST_KEPT else _write_immediate
    # Of what stands twice both parts count: https://protobuf.dev/programming-guides/encoding/#last-one-wins
    passing = b"".join([_age(value) for name, value in reply.headers if name == AGE])
    immediate = write(reply.status, reply.body, lasting)
    whole = head(_IMMEDIATE, len(immediate) + len(passing))
    return Encoded(b"".join((whole, immediate, passing, _metadata(facts))))


def _write_immediate(status: int, body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes:
    immediate = ImmediateResponse(status=HttpStatus(code=status), body=body, details="headgate")
    immediate.headers.MergeFromString(_mutation(headers))
    return bytes(immediate.SerializeToString())


_kept_immediate = lru_cache(maxsize=256)(_write_immediate)


@lru_cache(maxsize=1024)
def _age(value: str) -> bytes:
    """A part of an ImmediateResponse: one more header."""
    return piece(_IMMEDIATE_HEADERS, piece(_SET_HEADERS, _option(AGE, value)))


def write_head(reply: Reply) -> Encoded:
    """The beginning of a reply that comes in pieces (`write_piece`). Only in reply to a request's headers."""
    head = HttpHeaders()
    for name, value in ((":status", str(reply.status)), *reply.headers):
        head.headers.headers.add(key=name, raw_value=value.encode())
    return Encoded(piece(_STREAMED, piece(_STREAMED_HEAD, head.SerializeToString())))


def write_piece(body: bytes, *, ends: bool) -> Encoded:
    """The next bytes of a reply that has begun; `ends`: the last ones."""
    inner = piece(_HTTP_BODY, body) + (_LAST_PIECE if ends else b"")
    return Encoded(piece(_STREAMED, piece(_STREAMED_BODY, inner)))


def write_forward(forward: Forward, facts: Facts, *, on_headers: bool = False) -> Encoded:
    """The reply to the headers or to the buffered body: mutations, metadata, and a fresh route."""
    phase = _REQUEST_HEADERS if on_headers else _REQUEST_BODY
    common = piece(_HEADER_MUTATION, _mutation(forward.set_headers, forward.remove_headers)) + _FRESH_ROUTE
    metadata = _metadata(facts, forward.order)
    if forward.body is None:
        return Encoded(piece(phase, piece(_RESPONSE, common)) + metadata)
    # Joined once: a body may be large.
    heads, size = [], len(forward.body)
    for field in (_BODY, _BODY_MUTATION):
        heads.append(head(field, size))
        size += len(heads[-1])
    size += len(common)
    for field in (_RESPONSE, phase):
        heads.append(head(field, size))
        size += len(heads[-1])
    inner, outer, response, whole = heads
    return Encoded(b"".join((whole, response, common, outer, inner, forward.body, metadata)))


def _metadata(facts: Facts, order: tuple[str, ...] = ()) -> bytes:
    """Dynamic metadata: a Struct of Structs."""
    spaces = [struct_of(space, _fields(values)) for space, values in facts.items()]
    if order:
        spaces.append(_order(order))
    return piece(_METADATA, b"".join(spaces))


@lru_cache(maxsize=4096)
def _order(names: tuple[str, ...]) -> bytes:
    """The order in which Envoy's priority_group tries a route's groups."""
    override = Struct()
    override.update({"priority_groups": [{"name": name} for name in names]})
    return struct_of(ORDER_METADATA, override.SerializeToString())


def _fields(values: Mapping[str, MetadataValue]) -> bytes:
    parts = []
    for name, value in values.items():
        if isinstance(value, str):
            parts.append(struct_text(name, value))
        elif value is True:
            parts.append(struct_true(name))
        elif value is not False:
            parts.append(struct_number(name, value))
    return b"".join(parts)
