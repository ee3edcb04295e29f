"""From counters to verdicts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.decision import Status
from ratelimit.plan import Plan
from ratelimit.rules import BUCKETS, Algorithm, Limit, Rule
from ratelimit.storage.base import Count

UNLIMITED_REMAINING = 0xFFFFFFFF
_tuple = tuple.__new__  # a named tuple by its short way


def size(rule: Rule) -> int:
    """How many hits may pass at once when nothing is in use."""
    return rule.burst if rule.burst and rule.algorithm in BUCKETS else rule.rate.amount


def status(limit: Limit, count: Count | None, hits: int, now: int) -> Status:
    """The verdict of one limit; of an unlimited one, that has no counter, too."""
    rule = limit.rule
    if count is None:
        return Status(rule, False, UNLIMITED_REMAINING, 0, hits)
    value, over, reset = count
    remaining = (rule.rate.amount if not rule.burst else size(rule)) - value
    if remaining < 0 or (over and rule.shadow):
        remaining = 0
    if rule.algorithm is Algorithm.FIXED_WINDOW:
        reset = limit.window(now)[1] - now
    return _tuple(Status, (rule, over and not rule.shadow, remaining, reset, hits))


def by_descriptor(plan: Plan, several: Sequence[Status]) -> tuple[Status, ...]:
    """One status for each descriptor of the plan, out of those of its limits."""
    answers: list[Status] = []
    place = 0
    for width, hits in zip(plan.widths, plan.hits, strict=True):
        answers.append(_worst(several[place : place + width]) if width else Status(None, False, 0, 0, hits))
        place += width
    return tuple(answers)


def _worst(several: Sequence[Status]) -> Status:
    """Of several limits of one descriptor the one that is over (the longest wait first), else that has least left."""
    if len(several) == 1:
        return several[0]
    over = [one for one in several if one.over]
    if over:
        return max(over, key=lambda one: one.reset_seconds)
    return min(several, key=lambda one: one.remaining)
