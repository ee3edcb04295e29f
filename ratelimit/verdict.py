"""From counters to verdicts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.decision import Status
from ratelimit.plan import Plan, Planned
from ratelimit.rules import Algorithm, Rule
from ratelimit.storage.base import Count

UNLIMITED_REMAINING = 0xFFFFFFFF
_BUCKETS = (Algorithm.TOKEN_BUCKET, Algorithm.GCRA)


def counted(plan: Plan, counts: Sequence[Count]) -> list[Count | None]:
    """The counter of every limit of the plan, None for those that have none."""
    return [one.known if one.operation is None else counts[one.operation] for one in plan.limits]


def statuses(plan: Plan, found: Sequence[Count | None], now: int) -> tuple[Status, ...]:
    """One status for each descriptor of the plan."""
    if len(plan.limits) == len(plan.widths) == sum(plan.widths):  # one limit each, the usual case
        return tuple([_status(one, count, now) for one, count in zip(plan.limits, found, strict=True)])
    answers: list[Status] = []
    place = 0
    for width, hits in zip(plan.widths, plan.hits, strict=True):
        several = [_status(plan.limits[index], found[index], now) for index in range(place, place + width)]
        place += width
        answers.append(_worst(several) if several else Status(None, False, 0, 0, hits))
    return tuple(answers)


def size(rule: Rule) -> int:
    """How many hits may pass at once when nothing is in use."""
    return rule.burst if rule.burst and rule.algorithm in _BUCKETS else rule.rate.amount


def _status(planned: Planned, count: Count | None, now: int) -> Status:
    rule = planned.limit.rule
    if count is None:
        return Status(rule, False, UNLIMITED_REMAINING, 0, planned.hits)
    value, over, reset = count
    remaining = (size(rule) if rule.burst else rule.rate.amount) - value
    if over or remaining < 0:
        remaining = 0 if rule.shadow or remaining < 0 else remaining
    # By position: a decision makes several, and naming the fields doubles what one costs.
    return Status(
        rule,
        over and not rule.shadow,
        remaining,
        reset if rule.algorithm is not Algorithm.FIXED_WINDOW else rule.rate.until_reset(now),
        planned.hits,
    )


def _worst(several: Sequence[Status]) -> Status:
    """Of several limits of one descriptor the one that is over (the longest wait first), else that has least left."""
    if len(several) == 1:
        return several[0]
    over = [status for status in several if status.over]
    if over:
        return max(over, key=lambda status: status.reset_seconds)
    return min(several, key=lambda status: status.remaining)
