"""`/p/PROVIDER/…`: a provider's whole API, for keys that may use it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pytest
from openai import OpenAI

from tests.gateway import Answer, Gateway, key_entry, post, raw_request
from tests.provider_thread import ProviderThread

MAX_BODY = 1 << 20


@dataclass(frozen=True)
class Pass:
    gateway: Gateway
    vendor: ProviderThread
    other: ProviderThread

    def ask(
        self, path: str, method: str = "GET", body: bytes = b"", key: str = "sk-team-a", *more: tuple[str, str]
    ) -> Answer:
        return post(self.gateway.listen, body, path=path, method=method, key=key, headers=more)


@pytest.fixture(scope="module")
def shared_pass() -> Iterator[Pass]:
    with ProviderThread("vendor") as vendor, ProviderThread("other") as other:
        vendor.behave("echo=true")
        other.behave("echo=true")
        config: dict[str, Any] = {
            "max_body": MAX_BODY,
            "providers": {
                "vendor": {
                    "dialect": "openai", "api_key": "sk-of-vendor",
                    "base_url": vendor.base_url.removesuffix("/v1") + "/tenants/one/v1",
                },
                "other": {"dialect": "openai", "base_url": other.base_url, "api_key": "sk-of-other"},
                "large": {
                    "dialect": "openai", "base_urls": ["http://127.0.0.2:9/v1", vendor.base_url],
                },
                "two": {
                    "dialect": "openai", "api_key": "sk-of-two",
                    "base_urls": ["http://127.0.0.1:9/v1", other.base_url.removesuffix("/v1") + "/deep/v2"],
                },
            },
            "models": {"m": {"provider": "vendor"}},
            "keys": [
                key_entry("team-a", passthrough=["vendor", "two", "large"]),
                key_entry("nothing"),
                key_entry("all", passthrough=["*"]),
                key_entry("few", passthrough=["vendor"], limits={"requests": "3/year"}),
                key_entry("metered", passthrough=["vendor"], limits={"tokens": "1000000/year"}),
            ],
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Pass(gateway, vendor, other)


@pytest.fixture
def passing(shared_pass: Pass) -> Pass:
    shared_pass.vendor.forget()
    shared_pass.other.forget()
    return shared_pass


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_any_method_any_path_and_the_query_as_it_is(passing: Pass, method: str) -> None:
    body = b"" if method in ("GET", "DELETE", "OPTIONS") else b"any \x00 bytes"
    query = "limit=2&after=a%2Fb&x=%C3%A9&y[]=1&z"
    answer = passing.ask(f"/p/vendor/fine_tuning/jobs/ft-1?{query}", method, body)
    assert answer.status == 200, answer.raw
    got = passing.vendor.requests[0]
    assert (got.method, got.path, got.body) == (method, f"/tenants/one/v1/fine_tuning/jobs/ft-1?{query}", body)
    assert [value for name, value in got.headers if name == "authorization"] == ["Bearer sk-of-vendor"]
    assert "sk-team-a" not in str(got.headers)
    assert answer.header("x-headgate-provider") == "vendor"
    assert answer.header("x-headgate-model") is None


def test_head_has_no_body(passing: Pass) -> None:
    assert passing.ask("/p/vendor/models", "HEAD").status == 200
    assert passing.vendor.requests[0].method == "HEAD"


@pytest.mark.parametrize("version", ["", "/v1"])
def test_the_version_may_stand_in_the_path_or_not(passing: Pass, version: str) -> None:
    answer = passing.ask(f"/p/vendor{version}/models?a=1")
    assert answer.json()["object"] == "list"
    assert passing.vendor.requests[0].path == "/tenants/one/v1/models?a=1"


def test_only_a_whole_segment_is_the_version(passing: Pass) -> None:
    for rest in ("/v1beta/x", "/v10", "/v2/v1"):
        passing.ask(f"/p/vendor{rest}")
    assert [one.path for one in passing.vendor.requests] == [
        "/tenants/one/v1/v1beta/x", "/tenants/one/v1/v10", "/tenants/one/v1/v2/v1",
    ]  # fmt: skip


@pytest.mark.parametrize("path", ["/p/other/models", "/p/nobody/models", "/p/", "/p/Vendor/models", "/p//models"])
def test_what_is_not_allowed_is_403_and_does_not_say_more(passing: Pass, path: str) -> None:
    answer = passing.ask(path)
    assert answer.status == 403, answer.raw
    assert (answer.error["code"], answer.error["type"]) == ("passthrough_not_allowed", "permission_error")
    assert len(passing.vendor.requests) == len(passing.other.requests) == 0


def test_a_key_without_passthrough_has_none_and_no_key_is_401(passing: Pass) -> None:
    assert passing.ask("/p/vendor/models", key="sk-nothing").status == 403
    assert passing.ask("/p/vendor/models", key="sk-wrong").status == 401
    assert passing.ask("/p/other/models", key="sk-all").status == 200
    assert len(passing.vendor.requests) == 0


TRICKS = [
    "/p/vendor/../other/models",
    "/p/vendor/%2e%2e/other/models",
    "/p/vendor/.%2E/other/models",
    "/p/vendor/x/../../other/models",
    "/p/vendor/..%2fother/models",
    "/p/vendor/..%2f..%2f..%2fsecret",
    "/p/vendor/%2e%2e%2f%2e%2e%2fsecret",
    "/p/vendor/%2e%2e%5csecret",
    "/p/vendor/..\\..\\secret",
    "/p/vendor/..%5c..%5csecret",
    "/p/vendor/v1/../../../secret",
    "/p/vendor/v1/..%2f..%2fsecret",
    "/p/vendor/..;/..;/secret",
    "/p/vendor/%252e%252e/secret",
    "/p/vendor//../../secret",
    "//p/vendor/../other/models",
    "/p/other/../../p/other/models",
    "/x/../p/other/models",
    "/%70/other/models",
    "/p/%6fther/models",
    "/p%2fother/models",
    "/p/vendor#/../other",
    "/p/vendor/.%00./secret",
    "http://evil.test/p/other/models",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_trick_reaches_another_provider_or_leaves_the_base_path(passing: Pass, path: str) -> None:
    host = passing.gateway.listen
    head = f"GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer sk-team-a\r\n\r\n"
    answer = raw_request(host, head.encode())
    assert len(passing.other.requests) == 0
    if len(passing.vendor.requests) == 0:
        assert 400 <= answer.status < 500, answer.raw
        return
    (got,) = passing.vendor.requests
    assert got.path.startswith("/tenants/one/v1/"), got.path
    # Whatever a server decodes once, it stays below the base path.
    segments = unquote(got.path).replace("\\", "/").split("/")
    assert not any(segment.partition(";")[0] == ".." for segment in segments), got.path


def test_an_encoded_slash_stays_encoded(passing: Pass) -> None:
    """A model's name may hold one: it is a segment of the provider's path."""
    answer = passing.ask("/p/vendor/models/meta-llama%2FLlama-3?x=a%2fb")
    assert answer.status == 200
    assert passing.vendor.requests[0].path == "/tenants/one/v1/models/meta-llama%2FLlama-3?x=a%2fb"


def test_the_other_endpoint_when_the_first_refuses(passing: Pass) -> None:
    """What an attempt did is not known, so only a refused connection is tried again; each has a base path of its own."""
    for number in range(6):
        answer = passing.ask(f"/p/two/v2/things/{number}?a=1", "POST", b"once")
        assert answer.status == 200, answer.raw
    got = [(one.path, one.body) for one in passing.other.requests]
    assert got == [(f"/deep/v2/things/{number}?a=1", b"once") for number in range(6)]


@pytest.mark.parametrize("_turn", range(4))
def test_a_body_goes_to_the_other_endpoint_whole(passing: Pass, _turn: int) -> None:
    """As long as it may be held: of a longer one nothing is left to send again."""
    body = bytes(range(256)) * (MAX_BODY // 256)
    answer = passing.ask("/p/large/things", "POST", body)
    assert answer.status == 200, answer.raw
    assert passing.vendor.requests[0].body == body


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_answer_is_never_tried_again(passing: Pass, status: int) -> None:
    answer = passing.ask(
        "/p/vendor/embeddings", "POST", b'{"model":"x","input":"a"}', "sk-team-a", ("x-fake", f"status={status}")
    )
    assert answer.status == status
    assert len(passing.vendor.requests) == 1


def test_a_body_of_any_size_streams_through(passing: Pass) -> None:
    """`max_body` is for what the gateway must hold."""
    client = OpenAI(base_url=f"{passing.gateway.url}/p/vendor/v1", api_key="sk-team-a", max_retries=0)
    content = bytes(range(256)) * (5 * MAX_BODY // 256)
    made = client.files.create(file=("big.jsonl", content), purpose="batch")
    assert made.bytes == len(content)
    assert client.files.content(made.id).read() == content
    assert [one.id for one in client.files.list()] == [made.id]
    assert client.files.delete(made.id).deleted
    paths = {one.path.partition("?")[0] for one in passing.vendor.requests}
    assert paths == {
        "/tenants/one/v1/files",
        f"/tenants/one/v1/files/{made.id}",
        f"/tenants/one/v1/files/{made.id}/content",
    }


def test_a_body_that_is_held_is_still_limited(passing: Pass) -> None:
    body = json.dumps({"model": "m", "messages": [], "x": "y" * MAX_BODY}).encode()
    assert passing.ask("/v1/chat/completions", "POST", body).status == 413
    host = passing.gateway.listen
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer sk-team-a\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = b"".join(b"10000\r\n" + b" " * 65536 + b"\r\n" for _ in range(20)) + b"0\r\n\r\n"
    assert raw_request(host, head.encode() + chunked).status == 413
    head = head.replace("/v1/chat", "/x/../v1/chat").replace("POST ", "POST /p/vendor/../..")
    assert raw_request(host, head.encode() + chunked).status == 413


def test_batches_and_models_through_the_sdk(passing: Pass) -> None:
    client = OpenAI(base_url=f"{passing.gateway.url}/p/vendor", api_key="sk-team-a", max_retries=0)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": []}}
    file = client.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    done = client.batches.retrieve(batch.id)
    assert done.status == "completed"
    assert done.output_file_id
    assert b'"custom_id":"1"' in client.files.content(done.output_file_id).read()
    assert [one.id for one in client.models.list()] == ["fake"]
    assert client.embeddings.create(model="any", input="a b").usage.total_tokens == 2


def test_a_stream_streams(passing: Pass) -> None:
    client = OpenAI(base_url=f"{passing.gateway.url}/p/vendor", api_key="sk-team-a", max_retries=0)
    stream = client.chat.completions.create(model="any", messages=[{"role": "user", "content": "Hi"}], stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream).startswith("Hello")
    sent = passing.vendor.requests[0].json()
    assert "stream_options" not in sent  # nothing is added to a body that passes through
    assert sent["model"] == "any"


def test_requests_count(passing: Pass) -> None:
    statuses = [passing.ask("/p/vendor/models", key="sk-few").status for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    answer = passing.ask("/p/vendor/models", key="sk-few")
    assert answer.error["code"] == "rate_limit_exceeded"
    assert answer.header("x-ratelimit-limit-requests") == "3"
    assert len(passing.vendor.requests) == 3


def test_tokens_are_settled_by_the_usage_of_the_answer(passing: Pass) -> None:
    def left() -> int:
        body = b'{"model":"any","input":"a"}'
        answer = passing.ask(
            "/p/vendor/embeddings",
            "POST",
            body,
            "sk-metered",
            ("content-type", "application/json"),
            ("x-fake", "status=400"),
        )
        return int(answer.header("x-ratelimit-remaining-tokens") or -1)

    before = left()
    body = b'{"model":"any","messages":[{"role":"user","content":"one"}]}'
    headers = (("content-type", "application/json"), ("x-fake", "usage_tokens=4321"))
    assert passing.ask("/p/vendor/chat/completions", "POST", body, "sk-metered", *headers).status == 200
    passing.gateway.wait_for(lambda: before - left() == 4321)


def test_limits_that_ext_proc_decides_are_the_same() -> None:
    with ProviderThread("vendor") as vendor:
        config: dict[str, Any] = {
            "limits": {"enforce": "in_process"},
            "providers": {"vendor": {"dialect": "openai", "base_url": vendor.base_url}},
            "models": {"m": {"provider": "vendor"}},
            "keys": [
                key_entry("few", passthrough=["vendor"], limits={"requests": "3/year"}),
                key_entry("metered", passthrough=["vendor"], limits={"tokens": "1000000/year"}),
            ],
        }
        with Gateway(config) as gateway:
            passing = Pass(gateway, vendor, vendor)
            test_requests_count(passing)
            test_tokens_are_settled_by_the_usage_of_the_answer(passing)
