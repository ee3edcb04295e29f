"""`x-provider-key: PROVIDER=KEY`: the client's own key for one provider, and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.gateway import Answer, Gateway, chat, key_entry, post
from tests.provider_thread import ProviderThread

OURS = ("sk-ours-plain-1", "sk-ours-plain-2", "ours-azure")
THEIRS = "sk-the-clients-very-own"


@dataclass(frozen=True)
class Own:
    gateway: Gateway
    plain: ProviderThread
    azure: ProviderThread

    def ask(
        self,
        own: str | None,
        model: str = "both",
        key: str = "sk-own",
        path: str = "/v1/chat/completions",
        fake: str = "",
    ) -> Answer:
        headers = [("content-type", "application/json"), ("x-fake", fake)]
        headers += [("x-provider-key", own)] if own is not None else []
        return post(self.gateway.listen, chat(model), key=key, path=path, headers=tuple(headers))


@pytest.fixture(scope="module")
def shared_own() -> Iterator[Own]:
    with ProviderThread("plain") as plain, ProviderThread("azure") as azure:
        config = {
            "providers": {
                "plain": {"dialect": "openai", "base_url": plain.base_url, "api_keys": list(OURS[:2])},
                "azure": {
                    "dialect": "azure-openai", "base_url": azure.base_url.removesuffix("/v1"), "api_key": OURS[2],
                },
            },
            "models": {
                "both": [
                    {"provider": "plain", "model": "p"}, {"provider": "azure", "model": "a", "priority": 1},
                ],
                "single": {"provider": "azure"},
            },
            "keys": [key_entry("own", own_provider_keys=True, passthrough=["*"]), key_entry("team-a")],
        }  # fmt: skip
        with Gateway(config) as gateway:
            yield Own(gateway, plain, azure)


@pytest.fixture
def own(shared_own: Own) -> Own:
    shared_own.plain.forget()
    shared_own.azure.forget()
    return shared_own


@pytest.mark.parametrize(
    ("provider", "header", "value"), [("plain", "authorization", f"Bearer {THEIRS}"), ("azure", "api-key", THEIRS)]
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/p/{}/chat/completions"])
def test_it_goes_to_its_provider_alone_at_every_attempt(
    own: Own, provider: str, header: str, value: str, path: str
) -> None:
    fake = "status=409" if path.startswith("/v1") else ""
    answer = own.ask(f"{provider}={THEIRS}", path=path.format(provider), fake=fake)
    asked, other = (own.plain, own.azure) if provider == "plain" else (own.azure, own.plain)
    assert answer.status == (409 if fake else 200)
    assert len(other.requests) == 0
    assert len(asked.requests) == 1  # however many keys we have there: theirs would only be refused again
    for got in asked.requests:
        credentials = [(name, text) for name, text in got.headers if name in ("authorization", "api-key")]
        assert credentials == [(header, value)]
        assert not any(secret in str(got.headers) for secret in (*OURS, "sk-own"))
        assert got.header("x-provider-key") is None


def test_without_one_ours_is_sent(own: Own) -> None:
    assert own.ask(None).status == 200
    assert own.plain.requests[0].header("authorization") in [f"Bearer {key}" for key in OURS[:2]]
    assert own.ask(None, "single").status == 200
    assert own.azure.requests[0].header("api-key") == OURS[2]


def test_only_a_key_that_may_brings_one(own: Own) -> None:
    answer = own.ask(f"plain={THEIRS}", key="sk-team-a")
    assert answer.status == 403
    assert (answer.error["code"], answer.error["type"]) == ("own_key_not_allowed", "permission_error")
    assert len(own.plain.requests) == 0


@pytest.mark.parametrize("value", ["", "plain", "plain=", f"={THEIRS}", "plain=a\tb", "plain=é"])
def test_a_malformed_one_is_400(own: Own, value: str) -> None:
    answer = own.ask(value)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_own_key"
    assert len(own.plain.requests) == len(own.azure.requests) == 0


@pytest.mark.parametrize(
    ("value", "model", "path"),
    [
        ("nobody=x", "both", "/v1/chat/completions"),
        ("plain=x", "single", "/v1/chat/completions"),
        ("plain=x", "single", "/p/azure/models"),
    ],
)
def test_a_provider_that_is_not_asked_is_400(own: Own, value: str, model: str, path: str) -> None:
    answer = own.ask(value, model, path=path)
    assert answer.status == 400
    assert answer.error["code"] == "provider_not_available"
    assert "''" not in answer.error["message"]
    assert len(own.plain.requests) == len(own.azure.requests) == 0


def test_a_clients_own_rate_limit_is_nobody_elses(own: Own) -> None:
    """Its account is refused, ours is not: others still go where they went."""
    for _ in range(3):
        own.ask(f"plain={THEIRS}", fake="status=429,retry_after=60")
    own.gateway.wait_for(lambda: own.gateway.metric("headgate_attempts_total", reason="rate_limited") >= 3)
    states = {one["state"] for one in own.gateway.targets("both")}
    assert states == {"available"}
    answer = own.ask(None)
    assert (answer.header("x-headgate-provider"), answer.header("x-headgate-attempts")) == ("plain", "1")


def test_it_is_in_no_log(own: Own) -> None:
    own.ask(f"plain={THEIRS}")
    own.gateway.wait_for(lambda: own.gateway.log_lines("request"))
    assert THEIRS not in own.gateway.log()
    assert THEIRS not in own.gateway.get("/status")[1] + own.gateway.get("/metrics")[1]
