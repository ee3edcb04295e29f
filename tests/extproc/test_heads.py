"""Heads that are remembered: whatever came before, a request is decided as by a process that has seen nothing."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest, ProcessingResponse
from hypothesis import example, given
from hypothesis import strategies as st

from extproc import heads
from extproc.balance.health import Health
from extproc.context import Forward, Reply, RequestHeaders
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

    def __init__(self, made: Policy | None = None, draw: Callable[[], float] = lambda: 0.0) -> None:
        self.policy = policy(keys=KEYS) if made is None else made
        self.processor = Processor(lambda: self.policy, draw, Health(lambda: 0.0))
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


def test_no_secret_stays() -> None:
    server = Server()
    server.ask(head(usual("sk-a", "34")))
    server.ask(head(usual("sk-b", "34", x_provider_key="openai=sk-of-a-client")))
    server.ask(head(usual("sk-a", "34", x_headgate_cache_key="sk-of-a-user")))
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
        assert server.known == min(8, number + 1)


@pytest.mark.parametrize("first", ["authorization", "content-length", ":path"])
@pytest.mark.parametrize("differs", ["authorization", ":path", "cache-control", ":method", "content-type"])
def test_whatever_differs_is_another_head_wherever_it_stands(first: str, differs: str) -> None:
    def built(value: bytes) -> bytes:
        fields = dict(usual(length="34", cache_control="max-age=1")) | {differs: value}
        return head(sorted(fields.items(), key=lambda one: one[0] != first))

    marks = {
        Request.FromString(built(value)).mark for value in (b"Bearer sk-a", b"Bearer sk-b", b"34", b"/v1/completions")
    }
    assert len(marks) == 4


@pytest.mark.parametrize("kind", ["authorization", "path"])
def test_one_client_is_not_another_when_the_length_comes_first(kind: str) -> None:
    server = Server()
    for _ in range(2):
        for change, code in (({}, 0), ({"key": "sk-x"}, 401) if kind == "authorization" else ({"path": "/v1/no"}, 404)):
            fields = sorted(usual(length="34", **change), key=lambda one: one[0] != "content-length")
            assert status(server.ask(head(fields))) == code


hole = b"\x0a\x0econtent-length\x1a"


def test_a_broken_message_is_refused_whatever_came_before() -> None:
    good = head(usual(length="34"))
    assert good.endswith(b"34")
    for broken in (good[:-1], good[:-2], good[:-3], good[:-2] + b"\x52\x02zz", good + b"\x52\x02z"):
        server = Server()
        for payload in (good, good + b"\x52\x02zz", good):
            server.ask(payload)
        assert server.ask(broken) is StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("length", ["x4", "-1", "3 ", "²3", "0x", "1e9", "+3"])
def test_a_length_that_is_none_is_judged_as_ever(length: str) -> None:
    server = Server()
    for known in ("34", "345", "3456"):
        server.ask(head(usual(length=known)))
    for fields in (usual(length=length), usual(length=length)):
        assert server.ask(head(fields)) == Server(server.policy).ask(head(fields))


@pytest.mark.parametrize("tail", [b"\x50\x01", b"\x4a\x00"])
def test_bytes_behind_a_length_are_not_taken_for_one(tail: bytes) -> None:
    good = head(usual(length="34"))
    server = Server()
    server.ask(good + tail)
    assert server.ask(good[:-2] + tail) == Server(server.policy).ask(good[:-2] + tail)
    assert Request.FromString(good + tail).mark != Request.FromString(good[:-2] + tail).mark


texts = st.lists(st.sampled_from([hole, b"\x02", b"\x03", b"34", b"99", b"345", b"\x0a", b"x"]), max_size=5).map(
    b"".join
)


@given(st.tuples(texts, texts), st.tuples(texts, texts), st.sampled_from([b"34", b"99"]), st.booleans())
@example((hole + b"\x0234", b""), (hole + b"\x0299", b""), b"34", False)
@example((b"", hole + b"\x0234"), (b"", hole + b"\x0299"), b"34", True)
def test_equal_marks_mean_the_same_but_for_the_length(
    one: tuple[bytes, bytes], other: tuple[bytes, bytes], length: bytes, last: bool
) -> None:
    """Also of heads that no Envoy sends, with what looks like a content-length in other values."""

    def built(parts: tuple[bytes, bytes]) -> bytes:
        fields = [*usual(), ("cache-control", parts[0]), ("openai-beta", parts[1])]
        fields.insert(len(fields) if last else 0, ("content-length", length))
        return head(fields)

    server = Server()
    for payload in (built(one), built(other), built(one)):
        assert server.ask(payload) == Server(server.policy).ask(payload)
    first, second = Request.FromString(built(one)), Request.FromString(built(other))
    assert (first.mark == second.mark) is (built(one) == built(other))


@pytest.mark.parametrize(
    "fields",
    [
        usual("sk-c", path="/p/openai/x", length="34"),
        usual("sk-c", path="/p/openai/x"),
        [(":path", b"/v1/realtime?model=gpt-4o"), (":method", b"GET"), ("upgrade", b"websocket"),
         ("authorization", b"Bearer sk-c")],
    ],
)  # fmt: skip
def test_what_draws_a_target_is_drawn_each_time(fields: Fields) -> None:
    draws = iter([0.0, 0.9, 0.1])
    made = policy(
        keys=[{"name": "c", "sha256": digest("sk-c"), "passthrough": ["openai"]}],
        providers={"openai": {"dialect": "openai", "base_url": "http://one.test/v1", "realtime": True}},
        models={"gpt-4o": {"provider": "openai"}},
    )
    server = Server(made, lambda: next(draws))
    for _ in range(3):
        assert status(server.ask(head(fields))) == 0
    assert server.known == 0
    assert next(draws, None) is None


def test_a_head_with_more_than_a_key_and_an_operation_is_not_kept() -> None:
    server = Server()
    exchange, outcome = server.processor.on_headers(read_headers(Head(head(usual())).whole().request_headers))
    known = heads.Heads()
    for more in (
        replace(exchange, own_key="sk"),
        replace(exchange, own_provider="openai"),
        replace(exchange, order=(0,)),
        replace(exchange, query="a=b"),
        replace(exchange, realtime=True),
    ):
        known.remember(more, outcome, b"mark", b"")
    for name in ("x-provider-key", "sec-websocket-protocol", "x-headgate-cache-key"):
        fields = {**exchange.headers.fields, name: (b"x",)}
        known.remember(replace(exchange, headers=RequestHeaders(fields, False)), outcome, b"mark", b"")
    known.remember(exchange, Forward((), (), None, {}), b"mark", b"")
    known.remember(exchange, Reply(401, b""), b"mark", b"")
    known.remember(exchange, outcome, b"mark", b"34")  # it has no such length
    assert known.recall(server.policy, b"mark", b"") is None
    known.remember(exchange, outcome, b"mark", b"")
    assert known.recall(server.policy, b"mark", b"") is not None


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
