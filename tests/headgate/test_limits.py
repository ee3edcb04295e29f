"""How clients see limits."""

from __future__ import annotations

import json

from headgate.limits import build_rules, present
from headgate.settings import Settings
from ratelimit.limiter import Decision, Limiter, LimitRequest
from ratelimit.rules import Descriptor, Mode
from ratelimit.storage import MemoryStore
from tests.gateway import key_entry

SETTINGS = Settings.model_validate(
    {"keys": [key_entry("a", limits={"requests": "2/min", "tokens": "100/hour"}), key_entry("free")]}
)


def decide(limiter: Limiter, tokens: int) -> Decision:
    entries = (("key", "a"),)
    request = LimitRequest(
        "headgate",
        (Descriptor((*entries, ("limit", "requests")), 1), Descriptor((*entries, ("limit", "tokens")), tokens)),
    )
    decision = limiter.decide(build_rules(SETTINGS), request)
    assert isinstance(decision, Decision)
    return decision


def test_rules_are_those_of_the_keys() -> None:
    (node,) = build_rules(SETTINGS).domains["headgate"]
    assert (node.key, node.value, [child.value for child in node.children]) == ("key", "a", ["requests", "tokens"])
    assert all(child.rule is not None and child.rule.mode is Mode.RESERVE for child in node.children)


def test_only_tokens_wait_to_be_settled() -> None:
    decision = decide(Limiter(MemoryStore(), lambda: 30.0), 40)
    assert [(label, settlement.reserved) for label, settlement in decision.reservations] == [("tokens", 40)]


def test_headers_and_error() -> None:
    limiter = Limiter(MemoryStore(), lambda: 60 * 60 * 24 + 30)
    shown = present(decide(limiter, 40))
    assert dict(shown.headers) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "60",
        "x-ratelimit-reset-tokens": "3570s",
    }
    assert shown.body == b""
    over = present(decide(limiter, 61))
    assert dict(over.headers)["retry-after"] == "3570"
    error = json.loads(over.body)["error"]
    assert error == {
        "message": "Rate limit reached for tokens per hour: Limit 100, used 40, requested 61. Please try again in 3570s.",
        "type": "tokens",
        "param": None,
        "code": "rate_limit_exceeded",
    }
