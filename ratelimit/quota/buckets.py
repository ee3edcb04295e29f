"""Buckets of quota: which rule a bucket means, and what each Envoy is given of it. Pure: no clock, no I/O.

A bucket is a set of keys and values, without an order; the rules are a tree. It means the first path of the tree, in
the order of the file, that uses every key once and ends at a limit.

Of a rule that several Envoys use, each is given a share, by how much it was asked for lately; idle ones keep a small
share so that their first requests pass. What was really used is counted in the store, with everybody else's: when the
window is used up, every Envoy is told to deny until it ends.

Weakness: between two reports an Envoy works by its share alone, and its bucket fills. So a window may let through more
than its limit: at most what all Envoys together let through in one reporting interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ratelimit.operator import Counter
from ratelimit.rules import Entries, Node, RuleSet

_IDLE_SHARE = 0.05  # of an equal share, for an Envoy that has nothing to ask
_SMOOTHING = 0.5  # how much the last report counts against those before
_SHORTEST, _LONGEST = 30, 3_600  # seconds that an assignment lives without a report
_CHANGED = 0.1  # a share that changed by less is not told again


class Assignment(NamedTuple):
    """What an Envoy may do with a bucket for `ttl` seconds.

    `tokens` None: everything; 0: nothing; else a token bucket of that size that fills in `fill_seconds`.
    """

    ttl: int
    tokens: int | None
    fill_seconds: int = 0

    def replaces(self, before: Assignment | None) -> bool:
        """Whether it is worth telling, after `before`."""
        if before is None or before.fill_seconds != self.fill_seconds:
            return True
        if before.tokens is None or self.tokens is None or before.tokens == 0 or self.tokens == 0:
            return before.tokens != self.tokens
        return abs(self.tokens - before.tokens) > _CHANGED * before.tokens


@dataclass(slots=True)
class Demand:
    """What one Envoy asks of one bucket, in requests per second."""

    rate: float = 0.0
    reports: int = 0

    def report(self, requests: int, seconds: float) -> None:
        """So many requests, allowed and denied, in so many seconds."""
        rate = requests / seconds if seconds > 0 else float(requests)
        self.rate = rate if not self.reports else _SMOOTHING * rate + (1 - _SMOOTHING) * self.rate
        self.reports += 1


def find(rules: RuleSet, domain: str, bucket: Mapping[str, str]) -> Entries | None:
    """The descriptor that the bucket means, None when no limit has these keys."""
    return _walk(rules, domain, rules.domains.get(domain, ()), bucket, ())


def _walk(
    rules: RuleSet, domain: str, nodes: Sequence[Node], left: Mapping[str, str], taken: Entries
) -> Entries | None:
    for key in dict.fromkeys(node.key for node in nodes):
        if key not in left:
            continue
        path = (*taken, (key, left[key]))
        rest = {name: value for name, value in left.items() if name != key}
        node = rules.node(domain, path)
        if node is None:
            continue
        if not rest and node.rules:
            return path
        found = _walk(rules, domain, node.children, rest, path) if rest else None
        if found is not None:
            return found
    return None


def share(mine: float, all_rates: Sequence[float]) -> float:
    """The part of a limit, 0 to 1, for an Envoy that asks `mine` a second; `all_rates` hold its own too."""
    equal = 1 / len(all_rates)
    total = sum(all_rates)
    if total <= 0:
        return equal
    floor = equal * _IDLE_SHARE
    # What is given to the idle ones is taken from the others, so that all shares add up to 1.
    weights = [max(rate / total, floor) for rate in all_rates]
    return max(mine / total, floor) / sum(weights)


def assign(counters: Sequence[Counter], part: float) -> Assignment:
    """What an Envoy is given, of limits whose counters are these, when its share is `part`."""
    strict = [one for one in counters if not one.limit.rule.shadow and not one.limit.rule.unlimited]
    if not strict:
        return Assignment(_LONGEST, None)
    spent = [one for one in strict if one.remaining <= 0]
    if spent:
        return Assignment(max(1, max(one.reset_seconds for one in spent)), 0)
    # The slowest of the rates, and no more at once than the smallest of what is left.
    slowest = min(strict, key=lambda one: one.limit.rule.rate.amount / one.limit.rule.rate.seconds)
    rate = slowest.limit.rule.rate
    most = min(min(one.remaining, one.limit.rule.rate.amount) for one in strict)
    tokens = max(1, int(min(rate.amount, most) * part))
    # A bucket smaller than its share of the rate fills in as much less time: the rate stays.
    fill = max(1, round(rate.seconds * tokens / max(1.0, rate.amount * part)))
    return Assignment(min(_LONGEST, max(_SHORTEST, rate.seconds)), tokens, fill)
