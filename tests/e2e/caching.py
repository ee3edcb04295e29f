"""A gateway with caches, and how to ask it."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.gateway import Answer, Gateway, key_entry, post
from tests.provider_thread import ProviderThread

_numbers = itertools.count(1)
MODELS: dict[str, Any] = {
    "plain": {"provider": "fake"},
    "cached": {"targets": [{"provider": "fake"}], "cache": {"allow_stored": True}},
    "team": {"targets": [{"provider": "fake"}], "cache": {"scope": "team"}},
    "shared": {"targets": [{"provider": "fake"}], "cache": {"scope": "shared"}},
    "small": {"targets": [{"provider": "fake"}], "cache": {"max_answer": 2000}},
    "brief": {"targets": [{"provider": "fake"}], "cache": {"ttl": 1}},
}
KEYS = [
    key_entry("a", team="red"),
    key_entry("b", team="red"),
    key_entry("c", team="blue"),
    key_entry("lone"),
    key_entry("off", cache=False),
    key_entry("own", own_provider_keys=True),
    key_entry("limited", limits={"requests": "1000/year", "tokens": "1000000/year"}),
]


def new_text() -> str:
    """A question that nobody has asked yet."""
    return f"question {next(_numbers)}"


def question(text: str, model: str = "cached", **fields: Any) -> dict[str, Any]:
    """A chat that may be kept."""
    return {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def said(answer: Answer) -> tuple[str | None, str | None]:
    """What an answer says of the cache."""
    return answer.header("x-headgate-cache"), answer.header("x-headgate-cache-reason")


@dataclass(frozen=True)
class Caching:
    """A gateway with caches, and the provider behind it."""

    gateway: Gateway
    provider: ProviderThread

    def send(
        self,
        body: dict[str, Any] | bytes,
        key: str = "a",
        *,
        control: str = "",
        salt: str = "",
        fake: str = "",
        path: str = "/v1/chat/completions",
        more: tuple[tuple[str, str], ...] = (),
    ) -> Answer:
        """Any body."""
        headers = [("content-type", "application/json"), *more]
        for name, value in (("cache-control", control), ("x-headgate-cache-key", salt), ("x-fake", fake)):
            headers += [(name, value)] if value else []
        return post(self.gateway.listen, body, key=f"sk-{key}", headers=tuple(headers), path=path)

    def ask(self, text: str, key: str = "a", *, model: str = "cached", fields: Any = None, **how: Any) -> Answer:
        """A question."""
        return self.send(question(text, model, **(fields or {})), key, **how)

    def has(self, text: str, key: str = "a", **how: Any) -> bool:
        """Whether there is a kept answer."""
        return self.ask(text, key, **{"control": "only-if-cached", **how}).status == 200

    def ask_and_keep(self, text: str, key: str = "a", **how: Any) -> Answer:
        """Ask, and wait until the answer is kept: that is done behind the client's back."""
        answer = self.ask(text, key, **how)
        assert said(answer)[0] == "miss", answer.raw
        how.pop("fake", None)
        self.gateway.wait_for(lambda: self.has(text, key, **how))
        return answer

    def outcomes(self, outcome: str, model: str = "cached") -> float:
        """How many answers were kept, or not and why."""
        return self.gateway.metric("headgate_cache_answers_total", model=model, outcome=outcome)

    def stream(
        self, text: str, key: str = "a", fake: str = "", path: str = "/v1/chat/completions", **fields: Any
    ) -> http.client.HTTPResponse:
        """A question whose answer is read by the test."""
        connection = http.client.HTTPConnection(self.gateway.listen, timeout=20)
        headers = {"authorization": f"Bearer sk-{key}", "content-type": "application/json", "x-fake": fake}
        body = json.dumps(question(text, stream=True, **fields))
        connection.request("POST", path, body, headers)
        return connection.getresponse()


@contextmanager
def caching(provider: ProviderThread, **more: Any) -> Iterator[Caching]:
    """A gateway of its own; `more` is laid over its configuration."""
    config = {
        "providers": {"fake": {"dialect": "openai", "base_url": provider.base_url, "api_key": "ours"}},
        "models": MODELS,
        "keys": KEYS,
        **more,
    }
    with Gateway(config) as gateway:
        yield Caching(gateway, provider)
