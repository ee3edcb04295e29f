"""Three providers of three kinds: every attempt gets what is its own and nothing of anybody else's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from headgate.fake_provider.recorder import Received
from tests.gateway import Answer, Gateway, chat, key_entry, post, raw_request
from tests.provider_thread import ProviderThread

# A refusal that is tried again and says nothing of the target's health: the order stays as the priorities say.
FAILS = "fake:status=409,text="
KEYS = {"plain": "sk-secret-of-plain", "azure": "secret-of-azure", "base": "sk-secret-of-base"}
CREDENTIALS = {
    "plain": ("authorization", f"Bearer {KEYS['plain']}"),
    "azure": ("api-key", KEYS["azure"]),
    "base": ("authorization", f"Bearer {KEYS['base']}"),
}
PATHS = {
    "plain": lambda operation, model: f"/v1{operation}",
    "azure": lambda operation, model: f"/openai/deployments/{model}{operation}?api-version=2024-10-21",
    "base": lambda operation, model: f"/base/v2{operation}",
}
ORDERS = (("plain", "azure", "base"), ("azure", "base", "plain"), ("base", "plain", "azure"))
FOREIGN = (
    ("x-api-key", "client-1"), ("api-key", "client-2"), ("x-goog-api-key", "client-3"), ("cookie", "client-4"),
    ("openai-organization", "client-5"), ("openai-project", "client-6"), ("proxy-authorization", "client-7"),
    ("x-headgate-route", "client-8"), ("x-headgate-anything", "client-9"), ("x-envoy-attempt-count", "9"),
    ("x-envoy-max-retries", "9"), ("x-envoy-upstream-alt-stat-name", "client-10"), ("x-forwarded-for", "10.9.8.7"),
    ("forwarded", "for=client-11"), ("x-real-ip", "10.9.8.6"), ("sec-websocket-protocol", "client-12"),
)  # fmt: skip
# What a provider may see of a request, and nothing else.
SEEN = {"host", "content-type", "content-length", "x-request-id", "user-agent", "x-mine"}


@dataclass(frozen=True)
class Three:
    gateway: Gateway
    providers: dict[str, ProviderThread]

    def attempts(self) -> dict[str, Received]:
        """What each provider received: one request, or nothing."""
        found = {}
        for name, provider in self.providers.items():
            assert len(provider.requests) <= 1, name
            if len(provider.requests):
                found[name] = provider.requests[0]
        return found


def target_model(order: tuple[str, ...], name: str) -> str:
    """All fail but the last."""
    return f"{name}-last" if name == order[-1] else f"{FAILS}{name}"


@pytest.fixture(scope="module")
def gateway_of_three() -> Iterator[Three]:
    with ProviderThread("plain") as plain, ProviderThread("azure") as azure, ProviderThread("base") as base:
        root = {name: one.base_url.removesuffix("/v1") for name, one in (("azure", azure), ("base", base))}
        config = {
            "providers": {
                "plain": {"dialect": "openai", "base_url": plain.base_url, "api_key": "${KEY_PLAIN}"},
                "azure": {
                    "dialect": "azure-openai", "base_url": root["azure"], "api_key": "${KEY_AZURE}",
                    "api_version": "2024-10-21", "drops": ["store", "logit_bias"], "max_tokens": "max_completion_tokens",
                },
                "base": {
                    "dialect": "openai", "base_url": root["base"] + "/base/v2", "api_key": "${KEY_BASE}",
                    "include_usage": False, "max_tokens": "max_tokens",
                },
            },
            "models": {
                order[0]: [
                    {"provider": name, "model": target_model(order, name), "priority": place}
                    for place, name in enumerate(order)
                ]
                for order in ORDERS
            },
            "keys": [key_entry("team-a")],
        }  # fmt: skip
        environment = {f"KEY_{name.upper()}": key for name, key in KEYS.items()}
        with Gateway(config, environment) as gateway:
            yield Three(gateway, {"plain": plain, "azure": azure, "base": base})


@pytest.fixture
def three(gateway_of_three: Three) -> Three:
    for provider in gateway_of_three.providers.values():
        provider.forget()
    return gateway_of_three


def check_attempt(three: Three, name: str, got: Received, order: tuple[str, ...], operation: str, query: str) -> None:
    """Its own credential, path, host and length, and no header that is somebody else's business."""
    header, credential = CREDENTIALS[name]
    headers: dict[str, list[str]] = {}
    for key, value in got.headers:
        headers.setdefault(key, []).append(value)
    assert headers.pop(header) == [credential]
    assert headers.keys() <= SEEN, headers
    assert headers["host"] == [three.providers[name].base_url.split("/")[2]]
    assert headers["content-length"] == [str(len(got.body))]
    assert headers.get("x-mine") == ["kept"]
    model = target_model(order, name).replace(":", "%3A").replace("=", "%3D").replace(",", "%2C")
    expected = PATHS[name](operation, model)
    assert got.path == (f"{expected}{'&' if '?' in expected else '?'}{query}" if query else expected)


def expected_fields(name: str, order: tuple[str, ...], sent: dict[str, msgspec.Raw]) -> dict[str, Any]:
    """What a chat request's fields must be there; a value that is not named here stays as its bytes are."""
    changed: dict[str, Any] = {"model": target_model(order, name)}
    streams = msgspec.json.decode(sent.get("stream", msgspec.Raw(b"false")))
    if streams and name != "base":
        options = msgspec.json.decode(sent.get("stream_options", msgspec.Raw(b"{}")))
        changed["stream_options"] = {**options, "include_usage": True}
    gone = {"plain": (), "azure": ("store", "logit_bias"), "base": ()}[name]
    changed |= dict.fromkeys(field for field in gone if field in sent)
    rename = {"azure": ("max_tokens", "max_completion_tokens"), "base": ("max_completion_tokens", "max_tokens")}
    if name in rename:
        other, own = rename[name]
        if other in sent:
            changed[other] = None
            changed.setdefault(own, msgspec.json.decode(sent.get(own, sent[other])))
    return changed


FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
BODIES = {
    "compact": b'{"model":"%s","messages":[{"role":"user","content":"Hi"}]}',
    "spaces and line ends": (
        b'\n{\r\n\t"messages" : [ { "role":"user",\n "content" : "a\\tb\\n\xf0\x9f\x9a\x80 \xc3\xa9 \\u00e9" } ] ,\n'
        b'  "model" : "%s" ,\n "temperature": 1.10, "seed": 12345678901234567890123 , "x" : { "a" : [ 1 , 2 ] }\n}\n'
    ),
    "quirks": (
        b'{"store": false, "max_tokens": 50, "model": "%s", "logit_bias": {"1": 2},\t"messages": [], '
        b'"stream_options": {"include_obfuscation": false, "include_usage": false}, "user": "me"}'
    ),
    "both maximums": b'{"max_completion_tokens":7,"max_tokens":8,"messages":[],"model":"%s","n":1}',
    "a key that stands twice": b'{"model":"other","messages":[],"model":"%s"}',
    "escaped key": b'{"\\u006dodel":"%s","messages":[]}',
    "empty but the model": b'{"model":"%s"}',
}


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("shape", BODIES)
def test_a_chat_is_each_targets_own_at_every_attempt(
    three: Three, order: tuple[str, ...], stream: bool, shape: str
) -> None:
    body = BODIES[shape].replace(b"%s", order[0].encode())
    if stream:
        body = body.rstrip()[:-1].rstrip() + b' ,"stream": true }'
    headers = (("content-type", "application/json"), ("x-mine", "kept"), *FOREIGN)
    answer = post(three.gateway.listen, body, path="/v1/chat/completions?q=1", headers=headers)
    assert answer.status == 200, answer.raw[:500]
    assert answer.header("x-headgate-attempts") == "3"
    assert answer.header("x-headgate-provider") == order[-1]
    sent = FIELDS.decode(body)
    attempts = three.attempts()
    assert attempts.keys() == set(order)
    for name, got in attempts.items():
        check_attempt(three, name, got, order, "/chat/completions", "q=1")
        check_fields(name, order, sent, got.body)


def check_fields(name: str, order: tuple[str, ...], sent: dict[str, msgspec.Raw], body: bytes) -> None:
    received, changed = FIELDS.decode(body), expected_fields(name, order, sent)
    for field in received.keys() | sent.keys() | changed.keys():
        if field in changed:
            value = msgspec.json.decode(received[field]) if field in received else None
            assert value == changed[field], (name, field)
        elif received[field] != sent[field]:  # only where targets differ may white space go
            assert field in ("stream_options", "max_tokens", "max_completion_tokens", "store", "logit_bias")
            assert bytes(received[field]) == msgspec.json.format(bytes(sent[field]), indent=-1)


@pytest.mark.parametrize("size", [1 << 20, 20 << 20], ids=["1 MiB", "20 MiB"])
def test_large_bodies_arrive_whole_at_every_attempt(three: Three, size: int) -> None:
    order = ORDERS[1]
    made = chat(order[0], max_tokens=5, stream=size < 2 << 20)
    made["messages"][0]["content"] = "".join(f"{number:07d} é\n" for number in range(size // 13))
    body = json.dumps(made, ensure_ascii=False).encode()
    body = body[:-1] + b" " * (size - len(body)) + b"}"
    assert len(body) == size
    headers = (("content-type", "application/json"), ("x-mine", "kept"))
    answer = post(three.gateway.listen, body, headers=headers, timeout=60)
    assert answer.status == 200, answer.raw[:500]
    assert answer.header("x-headgate-attempts") == "3"
    sent = FIELDS.decode(body)
    for name, got in three.attempts().items():
        check_attempt(three, name, got, order, "/chat/completions", "")
        check_fields(name, order, sent, got.body)


def form(model: str, *, first: bool, size: int) -> bytes:
    content = bytes(range(256)) * (size // 256)
    model_part = f'--hg-line\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode()
    file_part = (
        b'--hg-line\r\nContent-Disposition: form-data; name="file"; filename="a \xc3\xa9.wav"\r\n'
        b"Content-Type: audio/wav\r\n\r\n" + content + b"\r\n"
    )
    image_part = (
        b'--hg-line\r\nContent-Disposition: form-data; name="image"; filename="b.png"\r\n'
        b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"
    )
    prompt = b'--hg-line\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na model\r\nname="model"\r\n'
    rest = file_part + image_part + prompt
    return (model_part + rest if first else rest + model_part) + b"--hg-line--\r\n"


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("first", [False, True], ids=["model last", "model first"])
@pytest.mark.parametrize("operation", ["/audio/transcriptions", "/images/edits"])
@pytest.mark.parametrize("size", [1 << 10, 1 << 20], ids=["small", "1 MiB"])
def test_a_form_is_each_targets_own_at_every_attempt(
    three: Three, order: tuple[str, ...], first: bool, operation: str, size: int
) -> None:
    body = form(order[0], first=first, size=size)
    headers = (("content-type", "multipart/form-data; boundary=hg-line"), ("x-mine", "kept"), *FOREIGN)
    answer = post(three.gateway.listen, body, path="/v1" + operation, headers=headers)
    assert answer.status == 200, answer.raw[:500]
    attempts = three.attempts()
    assert attempts.keys() == set(order)
    for name, got in attempts.items():
        check_attempt(three, name, got, order, operation, "")
        assert got.header("content-type") == "multipart/form-data; boundary=hg-line"
        assert got.body == form(target_model(order, name), first=first, size=size)


def test_a_query_is_each_targets_own_and_the_clients(three: Three) -> None:
    """What the client says of a version or a deployment is never heard."""
    query = "api-version=1999-01-01&deployment=theirs&a=b%20c&Api%2DVersion=x&d"
    headers = (("content-type", "application/json"), ("x-mine", "kept"))
    for order in ORDERS:
        for provider in three.providers.values():
            provider.forget()
        answer = post(three.gateway.listen, chat(order[0]), path=f"/v1/chat/completions?{query}", headers=headers)
        assert answer.status == 200
        for name, got in three.attempts().items():
            check_attempt(three, name, got, order, "/chat/completions", "a=b%20c&d" if name == "azure" else query)


@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions?a\tb=1", b"/v1/chat/completions?a\x01b", b"/v1/chat/completions?\xc3\xa9"]
)
def test_a_query_with_odd_bytes_is_refused_or_the_same_at_every_attempt(three: Three, path: bytes) -> None:
    """A tab separates a later attempt's path from its body: one that the client writes must not."""
    body = json.dumps(chat(ORDERS[0][0])).encode()
    head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer sk-team-a\r\ncontent-length: %d\r\n\r\n"
    answer: Answer = raw_request(three.gateway.listen, head % (path, len(body)) + body)
    if answer.status == 400:
        assert three.attempts() == {}
        return
    assert answer.status == 200
    for name, got in three.attempts().items():
        assert json.loads(got.body)["model"] == target_model(ORDERS[0], name)
        assert (
            got.path.partition("?")[2].removeprefix("api-version=2024-10-21&").encode("latin-1")
            == path.partition(b"?")[2]
        )


@pytest.mark.parametrize("model", ["plain", "azure"])
def test_a_body_without_a_length_has_one_at_every_attempt(three: Three, model: str) -> None:
    order = next(order for order in ORDERS if order[0] == model)
    body = json.dumps(chat(model, stream=True)).encode()
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:7], body[7:30], body[30:])) + b"0\r\n\r\n"
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer sk-team-a\r\n"
        "content-type: application/json\r\nx-mine: kept\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    assert raw_request(three.gateway.listen, head.encode() + pieces).status == 200
    attempts = three.attempts()
    assert attempts.keys() == set(order)
    for name, got in attempts.items():
        check_attempt(three, name, got, order, "/chat/completions", "")
        check_fields(name, order, FIELDS.decode(body), got.body)


def test_no_key_is_in_the_log(three: Three) -> None:
    assert post(three.gateway.listen, chat("plain")).status == 200
    three.gateway.wait_for(lambda: three.gateway.log_lines("request"))
    log = three.gateway.log()
    assert not any(key in log for key in (*KEYS.values(), "sk-team-a"))
