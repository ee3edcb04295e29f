"""Envoy's six traps (docs/architecture.md): for each a test that fails if it came back."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as ext_proc

from tests.e2e.conftest import OPENAI_KEY, House
from tests.gateway import Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread


def _process(house: House) -> Any:
    channel = grpc.insecure_channel(f"unix://{house.gateway.run_dir}/extproc.sock")
    return channel.stream_stream(
        "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
        request_serializer=ext_proc.ProcessingRequest.SerializeToString,
        response_deserializer=ext_proc.ProcessingResponse.FromString,
    )


def _headers(**extra: str) -> ext_proc.ProcessingRequest:
    message = ext_proc.ProcessingRequest()
    values = {":method": "POST", ":path": "/v1/chat/completions", "authorization": "Bearer sk-team-a", **extra}
    for name, value in values.items():
        message.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    return message


def test_1_the_stream_is_ended_right_after_the_last_reply(house: House) -> None:
    """A stream left open takes the client's answer with it when Python dies."""
    open_for_ever = threading.Event()

    def requests() -> Iterator[ext_proc.ProcessingRequest]:
        yield _headers(**{"content-length": "2"})
        yield ext_proc.ProcessingRequest(
            request_body=ext_proc.HttpBody(body=json.dumps(chat()).encode(), end_of_stream=True)
        )
        open_for_ever.wait(10)  # we never half-close: the server has to end it

    started = time.monotonic()
    replies = list(_process(house)(requests(), timeout=5))
    open_for_ever.set()
    assert [reply.WhichOneof("response") for reply in replies] == ["request_headers", "request_body"]
    assert time.monotonic() - started < 3


@pytest.mark.parametrize("kind", ["body first", "response headers", "nothing in it"])
def test_2_no_call_ends_well_without_an_answer(house: House, kind: str) -> None:
    """A clean end without a reply would let the request go on undecided."""
    message = ext_proc.ProcessingRequest()
    if kind == "body first":
        message.request_body.body = b"{}"
    elif kind == "response headers":
        message.response_headers.SetInParent()
    with pytest.raises(grpc.RpcError) as caught:
        list(_process(house)(iter([message]), timeout=5))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.RpcError) as caught:
        list(_process(house)(iter([_headers()]), timeout=5))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION


def test_2_a_crash_in_a_decision_is_an_error_for_the_client(house: House) -> None:
    """The filter is fail-closed: while the sidecar hangs, nothing reaches a provider."""
    sidecar = house.gateway.child("sidecar")
    sidecar.send_signal(signal.SIGSTOP)
    try:
        answer = post(house.gateway.listen, chat(), timeout=30)
    finally:
        sidecar.send_signal(signal.SIGCONT)
    assert answer.status in (503, 504)
    assert len(house.openai.requests) == 0


@pytest.mark.parametrize("model", ["gpt-4o", "llama"])
@pytest.mark.parametrize("stream", [False, True])
def test_3_content_length_is_that_of_the_body(house: House, model: str, stream: bool) -> None:
    """A length without a body mutation is request smuggling; a wrong one is a 500."""
    answer = post(house.gateway.listen, chat(model, stream=stream))
    assert answer.status == 200
    received = (*house.openai.requests, *house.local.requests)[0]
    lengths = [value for name, value in received.headers if name == "content-length"]
    assert lengths == [str(len(received.body))]


def test_4_credentials_go_to_their_own_provider_only(house: House) -> None:
    """Headers survive from attempt to attempt: every provider's cluster removes all and puts in its own."""
    foreign = (
        ("x-api-key", "client-1"), ("api-key", "client-2"), ("x-goog-api-key", "client-3"), ("cookie", "client-4"),
        ("openai-organization", "client-5"), ("proxy-authorization", "client-6"),
    )  # fmt: skip
    assert post(house.gateway.listen, chat("gpt-4o"), headers=foreign).status == 200
    assert post(house.gateway.listen, chat("llama"), headers=foreign).status == 200
    with_key, without = house.openai.requests[0], house.local.requests[0]
    assert [value for name, value in with_key.headers if name == "authorization"] == [f"Bearer {OPENAI_KEY}"]
    assert without.header("authorization") is None
    for received in (with_key, without):
        values = " ".join(value for _, value in received.headers)
        assert "client-" not in values
        assert "sk-team-a" not in values
    assert with_key.header("host") == house.openai.base_url.split("/")[2]
    assert without.header("host") == house.local.base_url.split("/")[2]
    assert OPENAI_KEY not in house.gateway.log()


def test_5_hits_addend_is_honoured(house: House) -> None:
    """In a route's rate_limits it would be ignored in silence: the estimate would count 1."""
    answer = post(house.gateway.listen, chat(max_tokens=5000), key="sk-metered")
    limit = int(answer.header("x-ratelimit-limit-tokens") or 0)
    second = post(house.gateway.listen, chat(max_tokens=5000), key="sk-metered")
    assert limit - int(second.header("x-ratelimit-remaining-tokens") or 0) >= 5000


def test_6_names_that_yaml_1_1_takes_for_booleans(house: House) -> None:
    """`y`, `no`, `on` and `off` are names, for our file and for Envoy's."""
    with ProviderThread() as provider:
        config = {
            "providers": {"y": {"dialect": "openai", "base_url": provider.base_url}},
            "models": {"no": {"provider": "y", "model": "on"}},
            "keys": [key_entry("team-a")],
        }
        gateway = Gateway(config)
        gateway.write_text(gateway.config_path.read_text().replace("'", ""))
        assert "\n  y:" in gateway.config_path.read_text()
        with gateway:
            assert post(gateway.listen, chat("no")).status == 200
            assert provider.requests[0].json()["model"] == "on"
