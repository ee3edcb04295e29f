"""Decisions as pure values: headers and body in, outcome out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.balance.health import Health
from extproc.context import Forward, NeedBody, Reply, RequestHeaders
from extproc.processor import METADATA, ROUTE_HEADER, USAGE_METADATA, Processor, for_envoy
from extproc.providers import openai
from tests.extproc.factories import digest, forwarded, headers, policy, run

CHAT: dict[str, Any] = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}


def test_an_unchanged_request_keeps_its_body() -> None:
    outcome = forwarded(CHAT)
    assert outcome.body is None
    assert dict(outcome.set_headers)[":path"] == "/v1/chat/completions"
    assert dict(outcome.set_headers)[ROUTE_HEADER].startswith("gpt-4o@")
    assert "content-length" not in dict(outcome.set_headers)
    assert outcome.remove_headers == ("authorization",)
    facts = outcome.metadata[METADATA]
    assert (facts["key"], facts["model"]) == ("a", "gpt-4o")
    assert outcome.order == ()
    assert USAGE_METADATA not in outcome.metadata


@pytest.mark.parametrize(("key", "limited"), [("sk-a", True), ("sk-b", False)])
def test_envoy_learns_whom_to_ask_about_and_what_to_settle(key: str, limited: bool) -> None:
    made = policy()
    processor = Processor(lambda: made, lambda: 0.0, Health(lambda: 0.0))
    exchange, _ = processor.on_headers(headers(key=key))
    outcome = processor.on_body(exchange, json.dumps({**CHAT, "stream": True}).encode())
    assert isinstance(outcome, Forward)
    facts = for_envoy(outcome.metadata, exchange)
    assert facts[METADATA].get("limited_key") == ("a" if limited else None)
    usage = facts[USAGE_METADATA]
    assert usage["strip"] is True
    assert usage.get("total") == (exchange.estimate if limited else None)


@pytest.mark.parametrize(
    ("draw", "model", "order"),
    [
        (0.0, "gpt-4o-mini", "010"),
        (0.79, "gpt-4o-mini", "010"),
        (0.8, "llama-3", "101"),
        (0.999, "llama-3", "101"),
    ],
)
def test_targets_by_weight(draw: float, model: str, order: str) -> None:
    outcome = forwarded({**CHAT, "model": "fast"}, draw=draw)
    assert outcome.body is not None
    assert json.loads(outcome.body) == {**CHAT, "model": model}
    assert dict(outcome.set_headers)["content-length"] == str(len(outcome.body))
    assert outcome.order == tuple(order)


def test_a_target_of_weight_zero_is_never_chosen() -> None:
    for draw in (0.0, 0.5, 0.999):
        assert dict(forwarded({**CHAT, "model": "off"}, draw=draw).set_headers)[":path"].startswith("/base/")


def test_the_path_is_the_providers() -> None:
    outcome = forwarded({**CHAT, "model": "fast"}, headers("/v1/chat/completions?x=1"), draw=0.9)
    assert dict(outcome.set_headers)[":path"] == "/base/v1/chat/completions?x=1"


def test_a_body_without_length_gets_one() -> None:
    outcome = forwarded(CHAT, headers(content_length=""))
    assert outcome.body == json.dumps(CHAT).encode()
    assert dict(outcome.set_headers)["content-length"] == str(len(outcome.body))


@pytest.mark.parametrize(
    ("options", "sent", "strip"),
    [
        (None, {"include_usage": True}, True),
        ({"include_usage": False}, {"include_usage": True}, True),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}, True),
        ({"include_usage": True}, None, False),
    ],
)
def test_usage_is_asked_for_in_streams(options: object, sent: object, strip: bool) -> None:
    body = {**CHAT, "stream": True, **({"stream_options": options} if options is not None else {})}
    outcome = forwarded(body)
    assert outcome.metadata.get(USAGE_METADATA, {}).get("strip", False) is strip
    if sent is None:
        assert outcome.body is None
    else:
        assert json.loads(outcome.body or b"")["stream_options"] == sent


def test_usage_is_not_asked_for_where_it_must_not_be() -> None:
    assert forwarded(CHAT).body is None
    local = forwarded({**CHAT, "model": "fast", "stream": True}, draw=0.9)
    assert "stream_options" not in json.loads(local.body or b"")
    assert forwarded({"model": "gpt-4o", "input": "x", "stream": True}, headers("/v1/responses")).body is None


def test_other_values_are_byte_for_byte() -> None:
    odd = b'{ "model" : "fast", "big": 12345678901234567890123, "f": 1.10, "s": "\xc3\xa9\\n\\/", "n": [ 1 , 2 ] }'
    body = forwarded(odd).body or b""
    assert b"12345678901234567890123" in body
    assert b"1.10" in body
    assert b"\xc3\xa9\\n\\/" in body
    assert b"[ 1 , 2 ]" in body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.text().filter(lambda k: k.casefold() not in ("model", "stream", "n", "max_tokens", "max_completion_tokens")),
        json_values,
        max_size=6,
    )
)
def test_a_rewrite_changes_the_model_and_nothing_else(rest: dict[str, Any]) -> None:
    body = {**rest, "model": "fast"}
    outcome = forwarded(body)
    assert json.loads(outcome.body or b"") == {**body, "model": "gpt-4o-mini"}


@given(st.binary(max_size=200))
def test_any_bytes_are_answered_or_forwarded(raw: bytes) -> None:
    outcome = run(raw)
    assert isinstance(outcome, Reply | Forward)
    if isinstance(outcome, Reply):
        assert 400 <= outcome.status < 500
        assert set(json.loads(outcome.body)["error"]) == {"message", "type", "param", "code"}


@given(st.lists(st.binary(max_size=40), max_size=3), st.text(max_size=30), st.text(max_size=10))
def test_no_headers_get_by_without_the_key(values: list[bytes], path: str, method: str) -> None:
    processor = Processor(policy, lambda: 0.0, Health(lambda: 0.0))
    fields = {":path": (path.encode(),), ":method": (method.encode(),), "authorization": tuple(values)}
    _, outcome = processor.on_headers(RequestHeaders(fields, end_of_stream=True))
    assert isinstance(outcome, Reply)
    assert outcome.status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    made = policy()
    processor = Processor(lambda: made, lambda: 0.0, Health(lambda: 0.0))
    _, outcome = processor.on_headers(headers(authorization=f"{scheme} sk-a"))
    assert isinstance(outcome, NeedBody)


def test_a_request_keeps_the_policy_it_began_with() -> None:
    policies = [policy(), policy(models={}, keys=[])]
    processor = Processor(lambda: policies.pop(0), lambda: 0.0, Health(lambda: 0.0))
    exchange, _ = processor.on_headers(headers())
    assert isinstance(processor.on_body(exchange, json.dumps(CHAT).encode()), Forward)


@pytest.mark.parametrize(("key", "names"), [("sk-a", ["gpt-4o", "fast", "off"]), ("sk-b", ["gpt-4o"])])
def test_models_of_a_key(key: str, names: list[str]) -> None:
    outcome = run(b"", headers("/v1/models", key, "GET"))
    assert isinstance(outcome, Reply)
    assert [model["id"] for model in json.loads(outcome.body)["data"]] == names


@pytest.mark.parametrize(
    ("path", "key", "status"),
    [
        ("/v1/models/gpt-4o", "sk-b", 200),
        ("/v1/models/fast", "sk-b", 404),
        ("/v1/models/none", "sk-a", 404),
        ("/v1/models/a%2Fb", "sk-a", 404),
    ],
)
def test_one_model(path: str, key: str, status: int) -> None:
    outcome = run(b"", headers(path, key, "GET"))
    assert isinstance(outcome, Reply)
    assert outcome.status == status


def test_a_model_that_is_not_for_this_key_is_403() -> None:
    outcome = run({**CHAT, "model": "fast"}, headers(key="sk-b"))
    assert isinstance(outcome, Reply)
    assert outcome.status == 403


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({}, 256),
        ({"max_tokens": 10}, 10),
        ({"max_completion_tokens": 20, "max_tokens": 10}, 20),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"max_tokens": "10"}, 256),
        ({"max_tokens": -1}, 256),
        ({"max_tokens": True}, 256),
        ({"max_tokens": 10**30}, 10_000_000),
    ],
)
def test_estimates(fields: dict[str, Any], tokens: int) -> None:
    body = {**CHAT, **fields}
    raw = json.dumps(body).encode()
    assert forwarded(body).metadata[METADATA]["estimate"] == min(tokens + -(-len(raw) // 4), 10_000_000)


def test_an_inline_image_counts_a_thousand_and_not_its_bytes() -> None:
    image = "data:image/png;base64," + "A" * 400_000
    body = {
        **CHAT,
        "max_tokens": 1,
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}] * 2}],
    }
    estimate = forwarded(body).metadata[METADATA]["estimate"]
    assert isinstance(estimate, int)
    assert 2_000 < estimate < 2_200


def test_embeddings_are_estimated_without_an_answer() -> None:
    body = {"model": "gpt-4o", "input": "x" * 400}
    raw = json.dumps(body).encode()
    assert forwarded(body, headers("/v1/embeddings")).metadata[METADATA]["estimate"] == -(-len(raw) // 4)


def test_error_bodies_escape_what_they_show() -> None:
    body = openai.error_body('a "quoted"\n\x00 text', kind="t", code=None)
    assert json.loads(body)["error"]["message"] == 'a "quoted"\n\x00 text'


def test_a_target_that_does_not_serve_the_operation_is_passed_over() -> None:
    providers = {
        "some": {"dialect": "openai", "base_url": "http://some.test/v1", "serves": ["chat.completions"]},
        "all": {"dialect": "openai", "base_url": "http://all.test/v1"},
    }
    both = [{"provider": "some", "model": "x"}, {"provider": "all", "model": "y", "priority": 1}]
    models = {"both": both, "chat-only": {"provider": "some"}}
    changes: dict[str, Any] = {
        "providers": providers,
        "models": models,
        "keys": [{"name": "a", "sha256": digest("sk-a")}],
    }
    asked = forwarded({"model": "both", "input": "x"}, headers("/v1/embeddings"), **changes)
    assert json.loads(asked.body or b"")["model"] == "y"
    assert asked.order == ("1", "1", "1")
    assert dict(asked.set_headers)["x-envoy-max-retries"] == "1"
    assert forwarded({**CHAT, "model": "both"}, **changes).order == ("0", "1", "0")
    refused = run({"model": "chat-only", "input": "x"}, headers("/v1/embeddings"), **changes)
    assert isinstance(refused, Reply)
    assert refused.status == 400
    assert b"has no provider that serves embeddings" in refused.body
