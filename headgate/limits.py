"""The limits of gateway keys as rules, and how a client sees them (OpenAI's headers and error)."""

from __future__ import annotations

from functools import lru_cache

from extproc.limits import DOMAIN, KEY, LIMIT, REQUESTS, TOKENS
from extproc.providers.openai import error_body
from headgate.settings import Settings
from ratelimit.limiter import Decision, Status
from ratelimit.presenter import Presentation
from ratelimit.rules import Mode, Node, Rate, Rule, RuleSet


def build_rules(settings: Settings) -> RuleSet:
    """One tree: key, then what is limited."""
    nodes = []
    for key in settings.keys:
        limits = ((REQUESTS, key.limits.requests), (TOKENS, key.limits.tokens))
        children = tuple(_limit(what, rate) for what, rate in limits if rate is not None)
        if children:
            nodes.append(Node(KEY, key.name, children=children))
    return RuleSet({DOMAIN: tuple(nodes)})


def _limit(what: str, rate: Rate) -> Node:
    # A request is one request, whatever becomes of it: only tokens are settled.
    return Node(LIMIT, what, Rule(rate, Mode.RESERVE, label=what, final=what == REQUESTS))


def present(decision: Decision) -> Presentation:
    """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`; over the limit also `retry-after` and the error."""
    headers: list[tuple[str, str]] = []
    over: list[Status] = []
    for status in decision.statuses:
        rule, is_over, remaining, reset, _ = status
        if rule is None or rule.unlimited:
            continue
        limit, remains, whole = _told(rule.label, rule.rate.amount, reset)
        headers += (limit, (remains, str(remaining)), whole)
        if is_over:
            over.append(status)
    if not over:
        return Presentation(tuple(headers))
    # The longest wait counts: after a shorter one the other limit would still refuse.
    worst = max(over, key=lambda status: status.reset_seconds)
    if _never_fits(worst):
        headers.append(("x-should-retry", "false"))  # read by OpenAI's SDKs
    else:
        headers.append(("retry-after", str(worst.reset_seconds)))
    return Presentation(tuple(headers), _error(worst))


def _never_fits(status: Status) -> bool:
    return status.rate is not None and status.hits > status.rate.amount


@lru_cache(maxsize=4096)
def _told(what: str, amount: int, reset_seconds: int) -> tuple[tuple[str, str], str, tuple[str, str]]:
    """The headers that tell of one limit: what it is, the name of what remains, when it is whole again."""
    return (
        (f"x-ratelimit-limit-{what}", str(amount)),
        f"x-ratelimit-remaining-{what}",
        (f"x-ratelimit-reset-{what}", f"{reset_seconds}s"),
    )


def _error(status: Status) -> bytes:
    assert status.rule is not None
    what, rate = status.rule.label, status.rule.rate
    window = rate.words
    asked = f"Limit {rate.amount}, used {rate.amount - status.remaining}, requested {status.hits}."
    if _never_fits(status):
        advice = "The request alone needs more than the limit: shorten it or lower its maximum."
    else:
        advice = f"Please try again in {status.reset_seconds}s."
    message = f"Rate limit reached for {what} per {window}: {asked} {advice}"
    return error_body(message, kind=what, code="rate_limit_exceeded")
