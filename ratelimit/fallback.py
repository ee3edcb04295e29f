"""What rules mean while the store does not answer. The one place that decides it for the rate-limit service."""

from __future__ import annotations

from collections.abc import Sequence

from ratelimit.options import Options
from ratelimit.plan import Plan
from ratelimit.rules import BUCKETS, OnError, Rule
from ratelimit.storage.base import Action, Count, Operation
from ratelimit.storage.memory import MemoryStore

_MOST_LOCAL = 100_000  # counters of this process alone


class Fallback:
    """Answers for the store by each rule's policy (see `rules.OnError`).

    LOCAL counts in this process, from nothing when the outage begins: with shares that add up to 1 over all processes
    no more than the limit passes in a window, besides what the store had counted in it before.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._local = MemoryStore(_MOST_LOCAL)

    def counts(self, plan: Plan, now: float) -> Sequence[Count] | None:
        """An answer for every operation of the plan; None when a rule wants the error to be seen.

        What only corrects a counter is dropped: it stays charged as it was.
        """
        answers: dict[int, Count] = {}
        local: list[tuple[int, Operation, Rule]] = []
        for one in plan.limits:
            if one.operation is None:
                continue
            rule = one.limit.rule
            policy = rule.on_error if rule.on_error is not OnError.ERROR else self._options.on_error
            if policy is OnError.ERROR:
                return None
            operation = plan.operations[one.operation]
            if policy is OnError.CLOSED and not one.settles:
                answers[one.operation] = Count(rule.rate.amount, over=True)
            elif policy is OnError.LOCAL and not one.settles:
                local.append((one.operation, operation._replace(hits=one.hits), rule))
            else:
                answers[one.operation] = Count(0, over=False)
        denied = any(count.over for count in answers.values())
        operations = [_scaled(operation, self._share(rule), denied=denied) for _, operation, rule in local]
        answered = self._local.apply(operations, now)
        for (place, whole, _), mine, count in zip(local, operations, answered, strict=True):
            # Shown against the whole limit: what the others may let through counts as used.
            answers[place] = count._replace(value=count.value + _size(whole) - _size(mine))
        return [answers[place] for place in range(len(plan.operations))]

    def _share(self, rule: Rule) -> float:
        return rule.local_share or self._options.local_share


def _scaled(operation: Operation, share: float, *, denied: bool) -> Operation:
    """The operation for a part of its limit; a reserve counts nothing when the call is denied already."""
    shape = operation.shape
    return operation._replace(
        limit=int(operation.limit * share),
        hits=0 if denied and operation.action is Action.RESERVE else operation.hits,
        shape=None if shape is None else shape._replace(burst=max(1, int(shape.burst * share))),
    )


def _size(operation: Operation) -> int:
    """What may be in use at once."""
    shape = operation.shape
    bucket = shape is not None and shape.algorithm in BUCKETS
    return shape.burst if shape is not None and bucket else operation.limit
