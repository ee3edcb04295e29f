"""Protobuf to values and back, for ext_proc (envoy/service/ext_proc/v3/external_processor.proto)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from envoy.config.core.v3.base_pb2 import HeaderValueOption
from envoy.extensions.filters.http.ext_proc.v3.processing_mode_pb2 import ProcessingMode
from envoy.service.ext_proc.v3.external_processor_pb2 import HttpHeaders, ProcessingResponse
from envoy.type.v3.http_status_pb2 import HttpStatus

from extproc.context import Forward, MetadataValue, Reply, RequestHeaders

Facts: TypeAlias = Mapping[str, Mapping[str, MetadataValue]]

_OVERWRITE = HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


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


NEED_BODY = _need_body()


def read_headers(message: HttpHeaders) -> RequestHeaders:
    """The headers as values. Envoy fills `raw_value`; `value` is read for older senders."""
    fields: dict[str, tuple[bytes, ...]] = {}
    for header in message.headers.headers:
        value = header.raw_value or header.value.encode()
        name = header.key
        fields[name] = (*fields[name], value) if name in fields else (value,)
    return RequestHeaders(fields, message.end_of_stream)


def write_reply(reply: Reply, facts: Facts) -> ProcessingResponse:
    """An immediate response. Works in every phase."""
    message = ProcessingResponse()
    immediate = message.immediate_response
    immediate.status.CopyFrom(HttpStatus(code=reply.status))
    immediate.body = reply.body
    immediate.details = "headgate"
    for name, value in reply.headers:
        option = immediate.headers.set_headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.raw_value = value.encode()
    _write_facts(message, facts)
    return message


def write_forward(forward: Forward, facts: Facts) -> ProcessingResponse:
    """The reply to the buffered body: mutations, metadata, and a fresh route."""
    message = ProcessingResponse()
    common = message.request_body.response
    for name, value in forward.set_headers:
        option = common.header_mutation.set_headers.add(append_action=_OVERWRITE)
        option.header.key = name
        option.header.raw_value = value.encode()
    common.header_mutation.remove_headers.extend(forward.remove_headers)
    if forward.body is not None:
        common.body_mutation.body = forward.body
    common.clear_route_cache = True
    _write_facts(message, facts)
    return message


def _write_facts(message: ProcessingResponse, facts: Facts) -> None:
    """Dynamic metadata, field by field: `Struct.update` costs several times as much."""
    namespaces = message.dynamic_metadata.fields
    for namespace, values in facts.items():
        fields = namespaces[namespace].struct_value.fields
        for name, value in values.items():
            if value.__class__ is str:
                fields[name].string_value = value
            elif value.__class__ is bool:
                fields[name].bool_value = value
            else:
                fields[name].number_value = value
