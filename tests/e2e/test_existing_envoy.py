"""Headgate in an Envoy that its owner had before: by `render attach --into`, and by pasting what `attach` prints.

The Envoy is `existing_envoy/envoy.yaml`. Everything that clients of `headgate up` get they get here, and the owner's
own routes are as they were.
"""

from __future__ import annotations

import json
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from headgate.render.yaml_text import load
from tests.attached import DOMAIN, Attached, Shop, headgate
from tests.gateway import Answer, chat, free_port, key_entry, raw_request
from tests.provider_thread import ProviderThread
from tests.sidecar.certificates import Authority

OWN = Path(__file__).parent / "existing_envoy" / "envoy.yaml"
PROVIDER_KEY = "sk-provider-secret"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]
TEXT = "Hello from the fake provider, which makes up every word."
WAYS = [
    ("into", "unix", "envoy"),
    ("into", "tcp", "in_process"),
    ("into", "mtls", "envoy"),
    ("paste", "tcp", "envoy"),
    ("paste", "mtls", "envoy"),
    ("files", "mtls", "envoy"),
]


@dataclass(frozen=True)
class House:
    attached: Attached
    openai: ProviderThread
    local: ProviderThread


def own_bootstrap(folder: Path, listen: int, admin: int, shop: int) -> str:
    """The owner's file with this machine's free ports."""
    text = OWN.read_text()
    for port, here in ((9901, admin), (8079, free_port()), (8080, listen), (8081, shop)):
        text = text.replace(f"port_value: {port}}}", f"port_value: {here}}}")
    return text.replace("/var/log/envoy", str(folder))


def pasted(own: str, printed: str) -> str:
    """What somebody makes of the owner's file who does as the comments say."""
    bootstrap, parts = load(own), yaml.safe_load(printed)
    resources = bootstrap["static_resources"]
    listener = next(one for one in resources["listeners"] if one["name"] == "edge")
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][-1:-1] = parts["http_filters"]
    manager["http_filters"][-1]["typed_config"]["upstream_log"] = parts["upstream_log"]
    manager["access_log"] += parts["access_log"]
    manager["local_reply_config"]["mappers"][:0] = parts["mappers"]
    manager["route_config"]["virtual_hosts"] += parts["virtual_hosts"]
    resources["clusters"] += parts["clusters"]
    resources["secrets"] = parts["secrets"]
    listener["per_connection_buffer_limit_bytes"] = parts["per_connection_buffer_limit_bytes"]
    return json.dumps(bootstrap)


def services(transport: str, folder: Path) -> dict[str, Any]:
    """The `services` of headgate.yaml."""
    if transport == "unix":
        return {}
    found: dict[str, Any] = {name: f"127.0.0.1:{free_port()}" for name in ("extproc", "ratelimit")}
    if transport == "mtls":
        ours, theirs = Authority("services"), Authority("envoys")
        pairs = {"": ours.sign("headgate.internal"), "client_": theirs.sign("envoy.internal")}
        files = {"ca": ours.pem, "client_ca": theirs.pem}
        for prefix, (cert, key) in pairs.items():
            files |= {f"{prefix}cert": cert, f"{prefix}key": key}
        for name, content in files.items():
            (folder / f"{name}.pem").write_bytes(content)
        found["tls"] = {name: str(folder / f"{name}.pem") for name in files} | {"name": "headgate.internal"}
    return found


@pytest.fixture(scope="module", params=WAYS, ids="-".join)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    way, transport, enforce = request.param
    folder = tmp_path_factory.mktemp("own")
    listen, admin = free_port(), free_port()
    shop = Shop()
    with ProviderThread("openai") as first, ProviderThread("local") as second:
        config = {
            "services": services(transport, folder),
            "limits": {"enforce": enforce},
            "providers": {
                "openai": {"dialect": "openai", "base_url": first.base_url, "api_key": PROVIDER_KEY},
                "local": {"dialect": "openai", "base_url": second.base_url},
            },
            "models": {
                "gpt-4o": {"provider": "openai"},
                "safe": {
                    "targets": [
                        {"provider": "openai", "model": "a"},
                        {"provider": "local", "model": "b", "priority": 1},
                    ]
                },
            },
            "keys": [
                key_entry("team-a", passthrough=["openai"]),
                key_entry("three", limits={"requests": "3/year"}),
                key_entry("tokens", limits={"tokens": "1000/year"}),
            ],
        }

        def bootstrap(path: Path, _: Path) -> str:
            own = own_bootstrap(folder, listen, admin, shop.port)
            keys = ["--secrets-dir", str(folder / "keys")] if way == "files" else ["--with-secrets"]
            options = ["render", "attach", "-c", str(path), *keys, "--domain", DOMAIN]
            if way == "files":
                headgate("render", "secrets", "-c", str(path), "--dir", str(folder / "keys"))
                printed = headgate(*options)
                assert PROVIDER_KEY not in printed
            if way == "paste":
                return pasted(own, headgate(*options))
            (folder / "own.yaml").write_text(own)
            return headgate(*options, "--into", str(folder / "own.yaml"), "--listener", "edge")

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:
            yield House(attached, first, second)
    shop.shutdown()
    shop.server_close()


@pytest.fixture
def house(made: House) -> House:
    for provider in (made.openai, made.local):
        provider.requests.clear()
        provider.behave("")
    return made


@pytest.fixture
def client(house: House) -> OpenAI:
    return sdk(house, "sk-team-a")


def sdk(house: House, key: str) -> OpenAI:
    url = f"http://{house.attached.listen}/v1"
    return OpenAI(base_url=url, api_key=key, max_retries=0, default_headers={"host": DOMAIN})


def wait_for(house: House, check: Any) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline, house.attached.log()[-4000:]
        time.sleep(0.05)


def shop_answer(house: House, path: str, *headers: str) -> Answer:
    lines = [f"GET {path} HTTP/1.1", "host: shop.example.com", "connection: close", *headers]
    return raw_request(house.attached.listen, ("\r\n".join(lines) + "\r\n\r\n").encode())


def test_chat_and_the_providers_key(client: OpenAI, house: House) -> None:
    answer = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert answer.parse().choices[0].message.content == TEXT
    assert answer.headers["x-headgate-provider"] == "openai"
    assert answer.headers["x-request-id"]
    assert "x-envoy-upstream-service-time" not in answer.headers
    received = house.openai.requests[0]
    assert received.header("authorization") == f"Bearer {PROVIDER_KEY}"
    # The owner's router says what the host was before: `suppress_envoy_headers` there would end it.
    assert [name for name, _ in received.headers if name.startswith(("x-headgate", "x-envoy", "x-forwarded"))] == [
        "x-envoy-original-host"
    ]


def test_a_stream_comes_whole_and_without_the_usage_that_nobody_ordered(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert all(chunk.usage is None for chunk in chunks)


def test_strangers_and_unknown_models(house: House, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        sdk(house, "sk-stranger").chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nope", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    assert house.attached.post(chat(), key=None).error["code"] == "invalid_api_key"
    assert {model.id for model in client.models.list()} == {"gpt-4o", "safe"}
    assert not house.openai.requests


def test_requests_over_the_limit_are_refused(house: House) -> None:
    found = [house.attached.post(chat(), key="sk-three") for _ in range(5)]
    assert [answer.status for answer in found] == [200] * 3 + [429] * 2
    assert [answer.header("x-ratelimit-remaining-requests") for answer in found[:3]] == ["2", "1", "0"]
    assert found[-1].error["code"] == "rate_limit_exceeded"
    assert int(found[-1].header("retry-after") or 0) > 0


def test_the_real_usage_settles_the_estimate(house: House) -> None:
    def ask(max_tokens: int, fake: str) -> Answer:
        return house.attached.post(chat(max_tokens=max_tokens), key="sk-tokens", headers=(("x-fake", fake),))

    assert ask(500, "usage_tokens=20").status == 200
    # 500 were reserved and 20 used: soon a request of 700 fits, which would not beside the reservation.
    wait_for(house, lambda: ask(700, "usage_tokens=1").status == 200)


def test_the_second_target_answers_when_the_first_fails(client: OpenAI, house: House) -> None:
    house.openai.behave("status=503")
    answer = client.chat.completions.with_raw_response.create(model="safe", messages=MESSAGES)
    assert answer.parse().choices[0].message.content == TEXT
    assert (answer.headers["x-headgate-provider"], answer.headers["x-headgate-attempts"]) == ("local", "2")
    assert house.local.requests[0].json()["model"] == "b"
    assert house.local.requests[0].header("authorization") is None
    assert house.local.requests[0].header("x-envoy-attempt-count") is None

    def failed() -> bool:
        metrics = house.attached.get_admin("/metrics").splitlines()
        return any(line.startswith("headgate_attempts_total") and 'reason="overloaded"' in line for line in metrics)

    wait_for(house, failed)


def test_the_owners_requests_are_no_business_of_ours(house: House, client: OpenAI) -> None:
    def asked() -> tuple[int, int]:
        wait_for(house, lambda: house.attached.envoy_stat("http.edge.downstream_rq_active") == 0)
        names = ("access_logs.grpc_access_log.logs_written", "http.edge.ext_proc.streams_started")
        return house.attached.envoy_stat(names[0]), house.attached.envoy_stat(names[1])

    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    logs, calls = asked()
    for path in ("/", "/teapot", "/closed", "/old"):
        shop_answer(house, path)
    assert asked() == (logs, calls)
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert asked() == (logs + 1, calls + 1)


def test_what_a_client_says_to_our_routes_counts_for_nothing(house: House) -> None:
    spoofed = (
        ("x-headgate-route", "m/gpt-4o"),
        ("x-headgate-decision", "yes"),
        ("x-envoy-max-retries", "9"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
    )
    assert house.attached.post(chat(), key=None, headers=spoofed).status == 401
    assert house.attached.post(chat(), headers=spoofed).status == 200
    sent = {name for name, _ in house.openai.requests[0].headers}
    assert not {name for name, _ in spoofed} & sent


def test_errors_of_our_requests_have_openais_shape(house: House) -> None:
    house.openai.behave("reset=before")
    assert house.attached.post(chat()).status in (502, 503)
    house.openai.behave("")
    too_large = house.attached.post(b"{" + b" " * (21 << 20))
    assert (too_large.status, too_large.error["code"]) == (413, "request_too_large")
    assert house.attached.post(chat(), path="/nope").error["code"] == "unknown_url"
    upgrade = (("upgrade", "websocket"), ("connection", "upgrade"))
    answer = house.attached.post(b"", path="/v1/realtime?model=gpt-4o", method="GET", headers=upgrade)
    assert answer.status == 400, answer.raw


def test_large_prompts_pass(house: House) -> None:
    answer = house.attached.post({**chat(), "messages": [{"role": "user", "content": "x" * (4 << 20)}]})
    assert answer.status == 200


def test_a_provider_by_its_own_name(house: House) -> None:
    answer = house.attached.post(chat(), path="/p/openai/v1/chat/completions")
    assert answer.status == 200
    climbing = urllib.parse.quote("..", safe="")
    for rest in ("../../admin", f"{climbing}/x", "a/..%2f..%2fx"):
        assert house.attached.post(chat(), path=f"/p/openai/{rest}").status == 400


def test_the_owners_routes_answer_as_before(house: House) -> None:
    headers = (
        "accept-encoding: gzip",
        "x-headgate-route: m/gpt-4o",
        "x-headgate-mine: 1",
        "authorization: Bearer sk-team-a",
    )
    answer = shop_answer(house, "/", *headers)
    assert answer.status == 200
    assert answer.header("x-shop") == "edge"
    assert answer.header("x-request-id") == "the-shops-own"
    assert answer.header("x-envoy-upstream-service-time") is not None
    seen = answer.json()
    assert seen["accept-encoding"] == "gzip"
    assert seen["x-headgate-mine"] == "1"
    assert seen["authorization"] == "Bearer sk-team-a"
    assert "x-envoy-attempt-count" not in seen
    teapot = shop_answer(house, "/teapot")
    assert (teapot.status, teapot.json()["host"]) == (418, "shop.example.com")


def test_what_the_owners_envoy_says_by_itself_is_the_owners(house: House) -> None:
    gone = shop_answer(house, "/old")
    assert (gone.status, gone.body) == (410, b"shop: 410 gone\n\n")
    closed = shop_answer(house, "/closed")
    assert (closed.status, closed.body) == (503, b"<h1>The shop is closed</h1>\n")
    assert closed.header("content-type") == "text/html"
    stranger = raw_request(
        house.attached.listen, b"GET / HTTP/1.1\r\nhost: else.example.com\r\nconnection: close\r\n\r\n"
    )
    assert stranger.status == 404
    assert stranger.body.startswith(b"shop: 404")


def mounted(folder: Path, files: Path, version: str) -> None:
    """The files as the kubelet mounts a Secret: links through `..data`, which is moved when the Secret changes."""
    folder.mkdir(exist_ok=True)
    shutil.copytree(files, folder / f"..{version}")
    fresh = folder / "..fresh"
    fresh.symlink_to(f"..{version}")
    fresh.replace(folder / "..data")
    for one in files.iterdir():
        link = folder / one.name
        if not link.is_symlink():
            link.symlink_to(f"..data/{one.name}")


def test_a_new_key_in_a_mounted_secret_is_used_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, admin = free_port(), free_port()
    with ProviderThread() as provider:
        config = {
            "providers": {
                "openai": {"dialect": "openai", "base_url": provider.base_url, "api_key": "${ROTATED}"},
            },
            "models": {"gpt-4o": {"provider": "openai"}},
            "keys": [key_entry("team-a")],
        }

        def write(path: Path, key: str) -> None:
            monkeypatch.setenv("ROTATED", key)
            headgate("render", "secrets", "-c", str(path), "--dir", str(tmp_path / key))
            mounted(tmp_path / "keys", tmp_path / key, key)

        def bootstrap(path: Path, _: Path) -> str:
            write(path, "sk-first")
            (tmp_path / "own.yaml").write_text(own_bootstrap(tmp_path, listen, admin, 9))
            options = ["--into", str(tmp_path / "own.yaml"), "--listener", "edge", "--domain", DOMAIN]
            return headgate("render", "attach", "-c", str(path), "--secrets-dir", str(tmp_path / "keys"), *options)

        with Attached(config, bootstrap, listen_port=listen, envoy_admin=admin) as attached:

            def used() -> str | None:
                assert attached.post(chat()).status == 200
                return provider.requests[-1].header("authorization")

            assert used() == "Bearer sk-first"
            write(attached.config_path, "sk-second")
            deadline = time.monotonic() + 10
            while used() != "Bearer sk-second":
                assert time.monotonic() < deadline
                time.sleep(0.1)
