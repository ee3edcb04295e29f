"""Everything a client can do wrong: a clear error in OpenAI's shape, and the gateway still serves."""

from __future__ import annotations

import gzip
import json
import socket
import time

import pytest

from tests.e2e.conftest import House
from tests.gateway import chat, post, raw_request


@pytest.fixture(autouse=True)
def _still_serves(house: House):  # type: ignore[no-untyped-def]
    yield
    assert post(house.gateway.listen, chat()).status == 200


def _body(**fields: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "Hi"}], **fields}).encode()


BAD_BODIES = [
    (b"", "empty"),
    (b"   ", "empty"),
    (b"{", "not valid JSON"),
    (b"hello", "not valid JSON"),
    (b"null", "not null"),
    (b"[]", "not an array"),
    (b"42", "not a number"),
    (b'"text"', "not a string"),
    (b"true", "not a boolean"),
    (b'{"model": "gpt-4o"} trailing', "not valid JSON"),
    (b'{"model": "gpt-4o", "x": "\xff\xfe"}', "not valid UTF-8"),
    (b'{"model": "gpt-4o", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    (_body(), "must provide a 'model'"),
    (_body(model=""), "non-empty string"),
    (_body(model=None), "non-empty string"),
    (_body(model=7), "non-empty string"),
    (_body(model=["gpt-4o"]), "non-empty string"),
    (_body(model="gpt-4o", stream="yes"), "'stream' must be true or false"),
    (_body(model="gpt-4o", stream=True, stream_options=[1]), "'stream_options' must be an object"),
    (b'{"Model": "gpt-4o", "messages": []}', "lower case"),
]


@pytest.mark.parametrize(("body", "reason"), BAD_BODIES, ids=[str(index) for index in range(len(BAD_BODIES))])
def test_bad_bodies_are_400(house: House, body: bytes, reason: str) -> None:
    answer = post(house.gateway.listen, body)
    assert answer.status == 400
    assert reason in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"
    assert len(house.openai.requests) == 0


def test_a_very_long_model_name_is_404_and_not_echoed_whole(house: House) -> None:
    answer = post(house.gateway.listen, _body(model="m" * 10_000))
    assert answer.status == 404
    assert len(answer.error["message"]) < 1_000


def test_quotes_in_a_model_name_are_escaped(house: House) -> None:
    answer = post(house.gateway.listen, _body(model='x","type":"forged'))
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "llama", "model": "gpt-4o", "messages": []}',
        b'{"model": "llama", "mod\\u0065l": "gpt-4o", "messages": []}',
    ],
)
def test_duplicate_keys_reach_the_provider_once_and_as_decided(house: House, body: bytes) -> None:
    answer = post(house.gateway.listen, body)
    assert answer.status == 200
    sent = house.openai.requests[0].body
    assert sent.count(b'"model"') == 1
    assert b"llama" not in sent
    assert b"\\u0065" not in sent


def test_five_megabytes_pass_and_twenty_five_do_not(house: House) -> None:
    large = post(house.gateway.listen, _body(model="gpt-4o", padding="x" * 5_000_000))
    assert large.status == 200
    assert len(house.openai.requests[0].body) > 5_000_000
    rewritten = post(house.gateway.listen, _body(model="llama", padding="x" * 5_000_000))
    assert rewritten.status == 200
    assert house.local.requests[0].json()["model"] == "llama-3"
    answer = post(house.gateway.listen, _body(model="gpt-4o", padding="x" * 25_000_000))
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_a_chunked_body_over_the_limit_is_413(house: House) -> None:
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
        b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    )
    answer = raw_request(house.gateway.listen, head + piece * 400 + b"0\r\n\r\n")
    assert answer.status == 413
    assert answer.error["code"] == "request_too_large"


def test_a_chunked_body_reaches_the_provider_with_a_length(house: House) -> None:
    body = json.dumps(chat()).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
        f"transfer-encoding: chunked\r\nconnection: close\r\n\r\n{len(body):x}\r\n"
    ).encode()
    answer = raw_request(house.gateway.listen, head + body + b"\r\n0\r\n\r\n")
    assert answer.status == 200
    assert house.openai.requests[0].header("content-length") == str(len(body))
    assert house.openai.requests[0].header("transfer-encoding") is None


def test_a_chunked_upload_that_stops_is_408(house: House) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
        b'transfer-encoding: chunked\r\n\r\n5\r\n{"mod\r\n'
    )
    started = time.monotonic()
    answer = raw_request(house.gateway.listen, head)
    assert answer.status == 408
    assert answer.error["code"] == "request_timeout"
    assert time.monotonic() - started < 10


def test_an_upload_that_is_cut_leaves_nothing_behind(house: House) -> None:
    host, _, port = house.gateway.listen.partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
            b'content-length: 1000\r\n\r\n{"model"'
        )
    house.gateway.wait_for(lambda: house.gateway.envoy_stat("http.gateway.downstream_rq_active") == 0)
    assert len(house.openai.requests) == 0


def test_gzip_bodies_are_415(house: House) -> None:
    answer = post(house.gateway.listen, gzip.compress(_body(model="gpt-4o")), headers=(("content-encoding", "gzip"),))
    assert answer.status == 415
    assert "content-encoding" in answer.error["message"]


KEYS = [
    (),
    (("authorization", "Bearer sk-wrong"),),
    (("authorization", "Bearer "),),
    (("authorization", "Bearer"),),
    (("authorization", ""),),
    (("authorization", "Basic c2stdGVhbS1hOg=="),),
    (("authorization", "sk-team-a"),),
    (("authorization", "Bearer sk-team-a"), ("authorization", "Bearer sk-team-a")),
    (("authorization", "Bearer sk-wrong"), ("authorization", "Bearer sk-team-a")),
    (("authorization", "Bearer sk-team-a, Bearer sk-team-b"),),
    (("x-api-key", "sk-team-a"),),
    (("authorization", "Bearer " + "x" * 20_000),),
]


@pytest.mark.parametrize("headers", KEYS, ids=[str(index) for index in range(len(KEYS))])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/nowhere", "/"])
def test_without_a_right_key_nothing_goes_through(
    house: House, headers: tuple[tuple[str, str], ...], path: str
) -> None:
    method = "GET" if path == "/v1/models" else "POST"
    answer = post(
        house.gateway.listen, chat() if method == "POST" else b"", path=path, key=None, headers=headers, method=method
    )
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert len(house.openai.requests) == 0


def test_internal_headers_of_a_client_are_gone(house: House) -> None:
    spoofed = (
        ("x-headgate-route", "local"),
        ("X-Headgate-Key", "team-b"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-original-path", "/evil"),
        ("x-forwarded-for", "1.2.3.4"),
        ("forwarded", "for=1.2.3.4"),
        ("x-real-ip", "1.2.3.4"),
    )
    answer = post(house.gateway.listen, chat(), headers=spoofed)
    assert answer.status == 200
    assert len(house.local.requests) == 0
    names = {name for name, _ in house.openai.requests[0].headers}
    assert not {
        name for name in names if name.startswith(("x-headgate", "x-envoy", "x-forwarded", "forwarded", "x-real"))
    }


def test_a_spoofed_route_without_a_key_goes_nowhere(house: House) -> None:
    answer = post(house.gateway.listen, chat(), key=None, headers=(("x-headgate-route", "openai"),))
    assert answer.status == 401
    assert len(house.openai.requests) == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/fine_tuning/jobs", 404),
        ("GET", "/", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/v1/chat/completions/../../admin", 404),
        ("DELETE", "/v1/files/x", 404),
    ],
)
def test_what_is_no_endpoint_is_a_json_error(house: House, method: str, path: str, status: int) -> None:
    answer = post(house.gateway.listen, b"" if method == "GET" else chat(), path=path, method=method)
    assert answer.status == status
    assert answer.error["code"]
    assert len(house.openai.requests) == 0


def test_http_1_0_is_served(house: House) -> None:
    body = json.dumps(chat()).encode()
    head = "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer sk-team-a\r\n"
    head += f"content-length: {len(body)}\r\n\r\n"
    answer = raw_request(house.gateway.listen, head.encode() + body)
    assert answer.status == 200
    assert answer.json()["object"] == "chat.completion"


WITH_KEY = b"host: x\r\nauthorization: Bearer sk-team-a\r\nconnection: close\r\n"


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/models HTTP/1.1\r\nconnection: close\r\n\r\n", 400, "bad_request"),  # no host
        (b"GET /v1/models#x HTTP/1.1\r\n" + WITH_KEY + b"\r\n", 400, "bad_request"),
        (b"GET /v1/%00 HTTP/1.1\r\n" + WITH_KEY + b"\r\n", 400, "bad_request"),
        (b"OPTIONS * HTTP/1.1\r\n" + WITH_KEY + b"\r\n", 404, "unknown_url"),
        (b"FOO /v1/models HTTP/1.1\r\n" + WITH_KEY + b"\r\n", 400, "bad_request"),
        (
            b"GET /v1/models HTTP/1.1\r\n" + WITH_KEY.replace(b"close", b"upgrade") + b"upgrade: foo\r\n\r\n",
            403,
            "upgrade_not_supported",
        ),
        (
            b"POST /v1/chat/completions HTTP/1.1\r\n" + WITH_KEY + b"transfer-encoding: foo\r\n\r\n",
            501,
            "transfer_encoding",
        ),
        (b"GET /v1/models HTTP/1.1\r\n" + WITH_KEY + b"x: " + b"a" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
    ],
)
def test_what_envoy_refuses_unasked_is_a_json_error(house: House, request_: bytes, status: int, code: str) -> None:
    answer = raw_request(house.gateway.listen, request_)
    error = answer.json()["error"]
    assert (answer.status, error["code"], set(error)) == (status, code, {"message", "type", "param", "code"})
    assert answer.header("content-type") == "application/json"
    assert len(house.openai.requests) == 0


def test_a_body_without_a_length_or_end_is_no_body(house: House) -> None:
    answer = raw_request(
        house.gateway.listen,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
        b"connection: close\r\n\r\n",
    )
    assert answer.status == 400
    assert "empty" in answer.error["message"]


def test_conflicting_lengths_are_refused(house: House) -> None:
    answer = raw_request(
        house.gateway.listen,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-team-a\r\n"
        b"content-length: 5\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n",
    )
    assert answer.status == 400
    assert len(house.openai.requests) == 0


def test_a_path_keeps_its_query(house: House) -> None:
    answer = post(house.gateway.listen, chat(), path="/v1/chat/completions?api-version=1")
    assert answer.status == 200
    assert house.openai.requests[0].path == "/v1/chat/completions?api-version=1"


def test_duplicates_of_what_decides_reach_the_provider_once(house: House) -> None:
    body = b'{"model": "gpt-4o", "stream": true, "stream": false, "max_tokens": 1, "max_tokens": 2, "messages": []}'
    assert post(house.gateway.listen, body).status == 200
    sent = house.openai.requests[0].body
    assert sent.count(b'"stream"') == 1
    assert house.openai.requests[0].json()["max_tokens"] == 2
