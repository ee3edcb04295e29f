"""Replies as bytes: what protobuf reads of them, and what is never kept."""

from __future__ import annotations

from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse

from extproc import messages
from extproc.context import Forward


def forwarded(path: str) -> ProcessingResponse:
    forward = Forward(((":path", path),), ("authorization",), None, {"headgate": {"key": "a"}})
    return ProcessingResponse.FromString(messages.write_forward(forward, forward.metadata).SerializeToString())


def test_short_and_long_headers_are_written_alike() -> None:
    for path in ("/v1/x", "/v1/x?" + "q" * 50_000):
        mutation = forwarded(path).request_body.response.header_mutation
        assert [(one.header.key, one.header.raw_value) for one in mutation.set_headers] == [(":path", path.encode())]
        assert list(mutation.remove_headers) == ["authorization"]


def test_what_a_client_may_make_long_is_not_kept() -> None:
    before = messages._kept_mutation.cache_info().currsize
    for number in range(50):
        forwarded(f"/v1/x?{number}" + "q" * 50_000)
    assert messages._kept_mutation.cache_info().currsize == before
