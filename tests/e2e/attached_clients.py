"""What clients get from Headgate, whatever Envoy it is attached to. Test modules subclass `Clients`."""

from __future__ import annotations

import time
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from tests.attached import DOMAIN, Attached
from tests.gateway import Answer, chat, free_port, key_entry
from tests.provider_thread import ProviderThread
from tests.sidecar.certificates import Authority

PROVIDER_KEY = "sk-provider-secret"
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]
TEXT = "Hello from the fake provider, which makes up every word."


@dataclass(frozen=True)
class House:
    """An attached gateway and the providers behind it."""

    attached: Attached
    openai: ProviderThread
    local: ProviderThread


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


def configuration(
    first: str, second: str, services: dict[str, Any], enforce: str, *, kept: bool = False
) -> dict[str, Any]:
    """The headgate.yaml that these tests need: `first` and `second` are the providers' base URLs.

    `kept`: there are models with a cache, too (`KeepsAnswers`).
    """
    cache = {"ttl": 600, "scope": "key"}
    cached = {
        "kept": {"targets": [{"provider": "openai"}], "cache": cache},
        "paced": {"targets": [{"provider": "openai"}], "cache": {**cache, "replay": "paced"}},
    }
    return {
        "services": services,
        "limits": {"enforce": enforce},
        "providers": {
            "openai": {"dialect": "openai", "base_url": first, "api_key": PROVIDER_KEY},
            "local": {"dialect": "openai", "base_url": second},
        },
        "models": {
            **(cached if kept else {}),
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


def sdk(house: House, key: str) -> OpenAI:
    url = f"http://{house.attached.listen}/v1"
    return OpenAI(base_url=url, api_key=key, max_retries=0, default_headers={"host": DOMAIN})


def wait_for(house: House, check: Any) -> None:
    deadline = time.monotonic() + 10
    while not check():
        assert time.monotonic() < deadline, house.attached.log()[-4000:]
        time.sleep(0.05)


class Clients:
    """The tests. They need a fixture `made`: a `House`."""

    @pytest.fixture
    def house(self, made: House) -> House:
        """The house, with the providers' memories cleared."""
        for provider in (made.openai, made.local):
            provider.requests.clear()
            provider.behave("")
        return made

    @pytest.fixture
    def client(self, house: House) -> OpenAI:
        return sdk(house, "sk-team-a")

    def test_chat_and_the_providers_key(self, client: OpenAI, house: House) -> None:
        answer = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
        assert answer.parse().choices[0].message.content == TEXT
        assert answer.headers["x-headgate-provider"] == "openai"
        assert answer.headers["x-request-id"]
        received = house.openai.requests[0]
        assert received.header("authorization") == f"Bearer {PROVIDER_KEY}"
        names = [name for name, _ in received.headers if name.startswith(("x-headgate", "x-envoy", "x-forwarded"))]
        # The owner's router says what the host was before, unless it has `suppress_envoy_headers`.
        assert names in ([], ["x-envoy-original-host"])

    def test_a_stream_comes_whole_and_without_the_usage_that_nobody_ordered(self, client: OpenAI) -> None:
        chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
        assert all(chunk.usage is None for chunk in chunks)

    def test_strangers_and_unknown_models(self, house: House, client: OpenAI) -> None:
        with pytest.raises(openai.AuthenticationError) as refused:
            sdk(house, "sk-stranger").chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert refused.value.code == "invalid_api_key"
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="nope", messages=MESSAGES)
        assert missing.value.code == "model_not_found"
        assert house.attached.post(chat(), key=None).error["code"] == "invalid_api_key"
        assert {model.id for model in client.models.list()} >= {"gpt-4o", "safe"}
        assert not house.openai.requests

    def test_requests_over_the_limit_are_refused(self, house: House) -> None:
        found = [house.attached.post(chat(), key="sk-three") for _ in range(5)]
        assert [answer.status for answer in found] == [200] * 3 + [429] * 2
        assert [answer.header("x-ratelimit-remaining-requests") for answer in found[:3]] == ["2", "1", "0"]
        assert found[-1].error["code"] == "rate_limit_exceeded"
        assert int(found[-1].header("retry-after") or 0) > 0

    def test_the_real_usage_settles_the_estimate(self, house: House) -> None:
        def ask(max_tokens: int, fake: str) -> Answer:
            return house.attached.post(chat(max_tokens=max_tokens), key="sk-tokens", headers=(("x-fake", fake),))

        assert ask(500, "usage_tokens=20").status == 200
        # 500 were reserved and 20 used: soon a request of 700 fits, which would not beside the reservation.
        wait_for(house, lambda: ask(700, "usage_tokens=1").status == 200)

    def test_the_second_target_answers_when_the_first_fails(self, client: OpenAI, house: House) -> None:
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

    def test_what_a_client_says_to_our_routes_counts_for_nothing(self, house: House) -> None:
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

    def test_errors_of_our_requests_have_openais_shape(self, house: House) -> None:
        house.openai.behave("reset=before")
        assert house.attached.post(chat()).status in (502, 503)
        house.openai.behave("")
        too_large = house.attached.post(b"{" + b" " * (21 << 20))
        assert (too_large.status, too_large.error["code"]) == (413, "request_too_large")
        assert house.attached.post(chat(), path="/nope").error["code"] == "unknown_url"
        upgrade = (("upgrade", "websocket"), ("connection", "upgrade"))
        answer = house.attached.post(b"", path="/v1/realtime?model=gpt-4o", method="GET", headers=upgrade)
        assert answer.status == 400, answer.raw

    def test_large_prompts_pass(self, house: House) -> None:
        answer = house.attached.post({**chat(), "messages": [{"role": "user", "content": "x" * (4 << 20)}]})
        assert answer.status == 200

    def test_a_provider_by_its_own_name(self, house: House) -> None:
        answer = house.attached.post(chat(), path="/p/openai/v1/chat/completions")
        assert answer.status == 200
        climbing = urllib.parse.quote("..", safe="")
        for rest in ("../../admin", f"{climbing}/x", "a/..%2f..%2fx"):
            assert house.attached.post(chat(), path=f"/p/openai/{rest}").status in (400, 403, 404)  # normalized or not
        assert len(house.openai.requests) == 1


def ask_twice(house: House, model: str, *, stream: bool) -> None:
    """An equal question soon gets an answer that was given before, byte for byte."""
    given: set[tuple[str | None, bytes]] = set()

    def kept() -> bool:
        answer = house.attached.post(chat(model, stream=stream, temperature=0))
        assert answer.status == 200
        found = (answer.header("content-type"), answer.body)
        if answer.header("x-headgate-cache") == "hit":
            assert found in given
            return True
        given.add(found)
        return False

    assert not kept()
    wait_for(house, kept)


class KeepsAnswers:
    """Tests for gateways whose configuration is `kept`."""

    @pytest.mark.parametrize("model", ["kept", "paced"])
    @pytest.mark.parametrize("stream", [False, True])
    def test_equal_questions_are_answered_once(self, house: House, model: str, stream: bool) -> None:
        ask_twice(house, model, stream=stream)
