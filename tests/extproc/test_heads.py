"""Heads that are remembered: whatever came before, a request is decided as by a process that has seen nothing."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from hypothesis import example, given
from hypothesis import strategies as st

from extproc import heads
from extproc.balance.health import Health
from extproc.messages import Head, Request, read_headers
from extproc.policy import Policy
from extproc.processor import Processor
from extproc.server import external_processor
from sidecar.errors import RpcError, StatusCode
from sidecar.rpc import CallContext, Step, StreamMethod
from tests.extproc.factories import digest, policy
from tests.extproc.test_limits import Unobserved

Fields = list[tuple[str, bytes]]
BODY = json.dumps({"model": "gpt-4o", "messages": []}).encode()
KEYS: list[dict[str, Any]] = [
    {"name": "a", "sha256": digest("sk-a")},
    {"name": "b", "sha256": digest("sk-b"), "models": ["gpt-*"], "own_provider_keys": True},
]


def head(fields: Fields, *, ends: bool = False) -> bytes:
    message = ProcessingRequest()
    for name, value in fields:
        message.request_headers.headers.headers.add(key=name, raw_value=value)
    message.request_headers.end_of_stream = ends
    return bytes(message.SerializeToString())


def usual(key: str = "sk-a", length: str = "", path: str = "/v1/chat/completions", **more: str) -> Fields:
    values = {":path": path, ":method": "POST", "authorization": f"Bearer {key}", "content-type": "application/json"}
    values |= {"content-length": length} if length else {}
    values |= {name.replace("_", "-"): value for name, value in more.items()}
    return [(name, value.encode()) for name, value in values.items()]


MODELS = [(":path", b"/v1/models"), (":method", b"GET"), ("authorization", b"Bearer sk-a")]


class Server:
    """The service, as an engine feeds it."""

    def __init__(self, made: Policy | None = None) -> None:
        self.policy = policy(keys=KEYS) if made is None else made
        self.processor = Processor(lambda: self.policy, lambda: 0.0, Health(lambda: 0.0))
        method = external_processor(self.processor, lambda: 0.0, Unobserved()).methods[0]
        assert isinstance(method, StreamMethod)
        self._method = method

    def ask(self, head: bytes, body: bytes = BODY) -> list[ProcessingResponse] | StatusCode:
        """All replies to one request."""
        stream = self._method.open(CallContext("/x"))
        replies = []
        message = ProcessingRequest()
        message.request_body.body = body
        try:
            for payload in (head, message.SerializeToString()):
                step = stream.on_message(self._method.request.FromString(payload))
                assert isinstance(step, Step)
                replies += [ProcessingResponse.FromString(reply.SerializeToString()) for reply in step.replies]
                if step.done:
                    break
        except RpcError as error:
            return error.code
        stream.on_close()
        return replies

    @property
    def known(self) -> int:
        return len(self.processor._heads._known)


def status(replies: list[ProcessingResponse] | StatusCode) -> int:
    """Of our own answer; 0 when the request goes on."""
    assert isinstance(replies, list)
    return int(replies[-1].immediate_response.status.code)


names = st.sampled_from(
    ["authorization", "content-length", "content-type", "content-encoding", "upgrade", "cache-control", "openai-beta",
     "x-provider-key", "sec-websocket-protocol", "x-headgate-cache-key", ":path", ":method"]
)  # fmt: skip
values = st.sampled_from(
    [b"Bearer sk-a", b"Bearer sk-b", b"Bearer sk-c", b"bearer  sk-a", b"10", b"0010", b"99", b"999999", b"1000001",
     b"-1", b"", b"application/json", b"multipart/form-data; boundary=x", b"gzip", b"websocket", b"no-store", b"local=sk",
     b"/v1/chat/completions", b"/v1/embeddings", b"/v1/models", b"/p/openai/x", b"/nowhere", b"POST", b"GET"]
)  # fmt: skip
requests = st.tuples(
    st.builds(
        lambda first, rest: first + rest,
        st.sampled_from([usual(), usual(length="34"), usual("sk-b", "34"), usual("sk-c"), usual(length="2000000"), []]),
        st.lists(st.tuples(names, values), max_size=2),
    ),
    st.booleans(),
)


@given(st.lists(requests, min_size=2, max_size=6))
def test_what_came_before_decides_nothing(asked: list[tuple[Fields, bool]]) -> None:
    server = Server()
    for fields, ends in asked + asked:
        payload = head(fields, ends=ends)
        assert server.ask(payload) == Server(server.policy).ask(payload)


def test_a_head_that_comes_again_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    first, models = server.ask(head(usual(length="34"))), server.ask(head(MODELS, ends=True))
    assert server.known == 2
    assert status(first) == 0
    assert status(models) == 200
    monkeypatch.delattr(Head, "whole")
    assert server.ask(head(usual(length="34"))) == server.ask(head(usual(length="87"))) == first
    assert server.ask(head(MODELS, ends=True)) == models


def test_each_key_is_told_of_its_own_models() -> None:
    server = Server()
    for _ in range(2):
        shown = []
        for key in ("sk-a", "sk-b"):
            fields = [(name, value.replace(b"sk-a", key.encode())) for name, value in MODELS]
            reply = server.ask(head(fields, ends=True))
            assert isinstance(reply, list)
            shown.append([model["id"] for model in json.loads(reply[0].immediate_response.body)["data"]])
        assert shown == [["gpt-4o", "fast", "off"], ["gpt-4o"]]


def test_a_long_list_of_models_is_made_each_time() -> None:
    made = policy(keys=KEYS, models={f"model-{number:03}": {"provider": "openai"} for number in range(100)})
    server = Server(made)
    assert status(server.ask(head(MODELS, ends=True))) == 200
    assert server.known == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (usual("sk-x", "34"), 401),
        (usual("sk-a ", "34", path="/v1/nothing"), 404),
        (usual(length="1000001"), 413),
        (usual(length="34", content_encoding="gzip"), 415),
    ],
)
def test_what_is_refused_is_refused_again(fields: Fields, code: int) -> None:
    server = Server()
    assert status(server.ask(head(usual(length="9999999")))) == 413
    assert status(server.ask(head(usual(length="1000000")))) == 0
    assert server.known == 1
    assert [status(server.ask(head(fields))) for _ in range(3)] == [code] * 3
    assert server.known == 1


def test_a_key_that_is_taken_away_is_refused_at_once() -> None:
    server = Server()
    assert [status(server.ask(head(usual(key)))) for key in ("sk-a", "sk-b")] == [0, 0]
    server.policy = policy(keys=KEYS[1:])
    assert [status(server.ask(head(usual(key)))) for key in ("sk-a", "sk-b", "sk-a")] == [401, 0, 401]
    server.policy = policy(keys=[{**KEYS[0], "models": ["none"]}])
    assert status(server.ask(head(usual("sk-a")))) == 403


def test_a_request_under_way_keeps_its_policy_and_the_next_one_has_the_new_one() -> None:
    server = Server()
    server.ask(head(usual("sk-a")))
    old, server.policy = server.policy, policy(keys=KEYS[1:])
    under_way, _ = server.processor.on_headers(read_headers(Head(head(usual("sk-b"))).whole().request_headers))
    late, outcome = Processor(lambda: old, lambda: 0.0, Health(lambda: 0.0)).on_headers(under_way.headers)
    server.processor.remember(late, outcome, b"mark of the old one", b"")
    assert status(server.ask(head(usual("sk-a")))) == 401


def test_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.ask(head(usual("sk-a", "34")))
    server.ask(head(usual("sk-b", "34", x_provider_key="openai=sk-of-a-client")))
    server.ask(head(usual("sk-b", "34", sec_websocket_protocol="openai-insecure-api-key.sk-of-a-client")))
    assert server.known == 1
    found: list[object] = [server.processor._heads._known]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if id(one) not in seen and not isinstance(one, type):
            seen.add(id(one))
            assert not isinstance(one, bytes | str) or "sk-" not in str(one)
            found += gc.get_referents(one)


def test_only_so_many_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "MOST_KNOWN", 8)
    server = Server()
    for number in range(40):
        assert status(server.ask(head(usual(path=f"/v1/chat/completions?{number}")))) == 0
        assert 1 <= server.known <= 8


hole = b"\x0a\x0econtent-length\x1a"
texts = st.lists(st.sampled_from([hole, b"\x02", b"\x03", b"12", b"345", b"\x0a", b"x"]), max_size=5).map(b"".join)


@given(st.tuples(texts, texts, texts), st.tuples(texts, texts, texts))
@example((hole + b"\x0212", b"", b""), (hole + b"\x0299", b"", b""))
@example((b"x", hole + b"\x0212", b""), (b"x", b"", hole + b"\x0212"))
def test_equal_marks_mean_the_same_but_for_the_length(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> None:
    """Also of heads that no Envoy sends, with what looks like a content-length in other values."""
    first, second = (
        head([("authorization", parts[0]), ("content-length", parts[1]), ("cache-control", parts[2])])
        for parts in (one, other)
    )
    a, b = Request.FromString(first), Request.FromString(second)
    if a.mark != b.mark or first == second:
        return
    # They differ in digits at one place, as many in each.
    assert len(first) == len(second)
    differ = [place for place in range(len(first)) if first[place] != second[place]]
    span = slice(differ[0], differ[-1] + 1)
    assert first[span] in a.length
    assert second[span] in b.length
    # And where that place is not the header's value, nobody remembers them.
    server = Server()
    for payload in (first, second):
        assert server.ask(payload) == Server(server.policy).ask(payload)


@pytest.mark.parametrize("payload", [b"\x12", b"\x12\xff", b"\x12\x05\x0a\x0a", b"\x12\x02\x0a", b"\x12" + hole])
def test_what_is_no_message_is_refused_and_says_so(payload: bytes) -> None:
    assert Server().ask(payload) is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7])
def test_a_head_that_becomes_another_message_is_what_it_becomes(number: int) -> None:
    """Of a oneof the last one counts."""
    server = Server()
    payload = head(usual()) + bytes((number << 3 | 2, 0))
    assert server.ask(payload) is StatusCode.FAILED_PRECONDITION
    assert server.known == 0
