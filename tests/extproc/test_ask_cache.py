"""What a request asks the cache: what is remembered of earlier ones makes no difference."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extproc.cache.asked import LAST, MOST_KEPT
from extproc.cache.question import Question
from extproc.context import Exchange, RequestHeaders
from extproc.filters.ask_cache import ask_cache
from extproc.policy import Policy
from extproc.providers import openai
from tests.extproc.factories import digest, policy

MODELS = {
    "one": {"targets": [{"provider": "openai"}], "cache": {}},
    "two": {"targets": [{"provider": "openai"}], "cache": {"scope": "team"}},
}
KEYS = [{"name": name, "sha256": digest(name), "team": team} for name, team in (("a", "red"), ("b", "red"), ("c", ""))]


def body(text: str = "q", **more: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": text}], "temperature": 0, **more}).encode()


def asks(made: Policy, raw: bytes, key: str = "a", model: str = "one", **headers: str) -> Question | None:
    values = {":path": headers.pop("path", "/v1/chat/completions"), **headers}
    fields = {name.replace("_", "-"): (value.encode(),) for name, value in values.items()}
    exchange = Exchange(made, RequestHeaders(fields, end_of_stream=False))
    exchange.key = next(one for one in made.keys.values() if one.name == key)
    exchange.model, exchange.operation = made.models[model], openai.OPERATIONS["/v1/chat/completions"]
    exchange.raw_body, exchange.body = raw, openai.parse(raw)
    ask_cache(exchange)
    return exchange.question


@pytest.fixture
def made() -> Policy:
    return policy(models=MODELS, keys=KEYS)


VARIANTS: list[tuple[bytes, dict[str, str]]] = [
    (body(), {}),
    # Of one length, with the same middle and the same end.
    (body("x" * 200 + "a" + "y" * 2000), {}),
    (body("x" * 200 + "b" + "y" * 2000), {}),
    (body(), {"key": "b"}),
    (body(), {"key": "c"}),
    (body(), {"model": "two"}),
    (body(), {"model": "two", "key": "b"}),
    (body(), {"path": "/v1/chat/completions?v=1"}),
    (body(), {"openai_beta": "x"}),
    (body(), {"x_headgate_cache_key": "salt"}),
    (body(), {"cache_control": "max-age=5"}),
    (body(), {"cache_control": "no-cache"}),
    (body(), {"cache_control": "only-if-cached"}),
    (body(tools=[{}]), {}),
    (body(), {"cache_control": "no-store"}),
    (body("x" * 5000), {}),
]


def test_what_is_remembered_makes_no_difference(made: Policy) -> None:
    alone = []
    for raw, how in VARIANTS:
        LAST.clear()
        alone.append(asks(made, raw, **how))
    for _ in range(3):
        assert [asks(made, raw, **how) for raw, how in VARIANTS] == alone
        assert [asks(made, raw, **how) for raw, how in reversed(VARIANTS)] == alone[::-1]
    digests = [one.key.digest for one in alone if one is not None]
    # Whoever is of one team, and what a client wants to be told, makes no other key.
    assert len(digests) - len(set(digests)) == 4
    assert [number for number, one in enumerate(alone) if one is None] == [13, 14]


def test_a_reload_begins_anew(made: Policy) -> None:
    before = asks(made, body())
    models = {**MODELS, "one": {"targets": [{"provider": "openai"}], "cache": {"ttl": 7}}}
    after = asks(policy(models=models, keys=KEYS), body())
    assert before is not None
    assert after is not None
    assert (before.rules.ttl, after.rules.ttl) == (3600, 7)


def test_no_more_is_remembered_than_so_much(made: Policy) -> None:
    for number in range(2 * MOST_KEPT):
        asks(made, body(str(number)))
    assert len(LAST) == MOST_KEPT
    LAST.clear()
    asks(made, body("x" * 5000))
    assert not LAST
