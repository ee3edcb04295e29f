"""From a request to operations on counters: what each descriptor means, and what need not be asked of the store.

Pure but for two memories that spare the store: keys that are over their limit (`LocalCache`), and `Leases`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ratelimit.algorithms.fixed_window import TTL_SLACK, counter_key
from ratelimit.decision import LimitRequest
from ratelimit.leases import Leases
from ratelimit.local_cache import LocalCache
from ratelimit.options import Options
from ratelimit.rules import BUCKETS, MAX_HITS, Algorithm, Limit, Mode, Rule, RuleSet, Settlement
from ratelimit.storage.base import Action, Count, Operation, Shape

_tuple = tuple.__new__  # a named tuple by its short way


class Planned(NamedTuple):
    """One limit of one descriptor. `operation` is its place among the plan's; None: the store is not asked.

    `known` is then the answer, of the local cache (`local`) or of a lease; an unlimited rule needs none. `leased`: the
    operation may ask for more than `hits`, to be given out later. `settles`: it corrects what was counted before.
    `reset` is in how many seconds a plain rule's window ends.
    """

    limit: Limit
    hits: int
    operation: int | None
    known: Count | None = None
    local: bool = False
    leased: bool = False
    settles: bool = False
    reset: int = 0


class Plan:
    """A request's limits and what the store is asked.

    `widths` says how many limits each descriptor has, `hits` what each asks for; `single` that each has just one.
    It is true of one rule set and one second.
    """

    __slots__ = ("cached", "hits", "leased", "limits", "mark", "operations", "plain", "planner", "quota", "reserved",
                 "second", "single", "widths")  # fmt: skip

    def __init__(self, planner: Planner, mark: object, second: int) -> None:
        self.planner = planner
        self.mark = mark  # the rule set's, and not the set: a plan that is kept must not keep that alive
        self.second = second
        self.single = True
        self.plain = True  # every limit is asked of the store, and nothing about it is special (`Rule.plain`)
        self.quota = False  # some limit is a quota
        self.cached = False  # the local cache knew of a limit that is over, and that denies
        self.leased = False  # some limit has leases
        self.limits: list[Planned] = []
        self.operations: list[Operation] = []
        self.widths: list[int] = []
        self.hits: list[int] = []
        self.reserved: tuple[tuple[str, Settlement], ...] = ()  # of a plain plan: what it reserves, by label


class Planner:
    """Plans requests for one store. `dice` gives numbers from 0 up to 1."""

    def __init__(self, options: Options, dice: Callable[[], float]) -> None:
        self._options = options
        self._dice = dice
        self._prefix = options.key_prefix
        self._watch_all = options.quota or options.shadow
        self._jitter = options.jitter
        self._consume = Action.STOP if options.stop_when_over else Action.ADD
        self.local = LocalCache(options.local_cache_bytes) if options.local_cache_bytes else None
        self.leases = Leases()

    def plan(self, rules: RuleSet, request: LimitRequest, now: int) -> Plan:
        """What the store is asked about `request` at `now` (unix seconds).

        A plan that is plain is the same for the rest of the second, and nobody changes it: it is kept with the request.
        So its counters' expiry is spread once a second.
        """
        known = request.memo
        if isinstance(known, Plan) and known.second == now and known.mark is rules.mark and known.planner is self:
            return known
        plan = self._plan(rules, request, now)
        if plan.plain:
            request.memo = plan
        return plan

    def _plan(self, rules: RuleSet, request: LimitRequest, now: int) -> Plan:
        plan = Plan(self, rules.mark, now)
        replaced = _replaced(rules, request) if rules.replacing else None
        domain, addend = request.domain, request.hits_addend
        for descriptor in request.descriptors:
            hits = descriptor.hits
            if hits is None:
                hits = addend or 1
            if not 0 <= hits <= MAX_HITS:
                hits = max(-MAX_HITS, min(hits, MAX_HITS))
            match = rules.match(domain, descriptor)
            plan.hits.append(hits)
            if match is None:
                plan.widths.append(0)
                plan.single = False
                continue
            limits: Sequence[Limit] = match.limits
            if replaced:
                limits = [one for one in limits if one.rule.unlimited or one.rule.name not in replaced]
            plan.widths.append(len(limits))
            if len(limits) != 1:
                plan.single = False
            for limit in limits:
                if limit.plain and match.settlement is None and hits >= 0 and self.local is None:
                    self._plain(plan, limit, hits, now)
                    continue
                plan.plain = False
                if limit.rule.unlimited:
                    plan.limits.append(Planned(limit, hits, None))
                elif match.settlement is not None:
                    reserved = believed(limit.rule, match.settlement, now)
                    self._correct(plan, limit, hits, settling(limit, reserved, hits, now, self._prefix))
                elif hits < 0:
                    self._correct(plan, limit, hits, settling(limit, Settlement(-hits, now), 0, now, self._prefix))
                else:
                    self._count(plan, limit, hits, now)
        if plan.cached and self._options.stop_when_over:
            # One is known to be over: the others are looked at, and not counted.
            plan.operations = [one if one.action is Action.ADJUST else one._replace(hits=0) for one in plan.operations]
        if plan.plain:
            plan.reserved = _reserved(plan)
        return plan

    def _plain(self, plan: Plan, limit: Limit, hits: int, now: int) -> None:
        """As `_count` would do; nearly every limit comes this way."""
        rule = limit.rule
        key, end = limit.window(now)
        rate = rule.rate
        reset = end - now
        ttl = reset + TTL_SLACK
        if self._prefix:
            key = self._prefix + key
        if self._jitter:
            ttl += int(self._dice() * self._jitter)
        action = self._action(rule)
        plan.quota = plan.quota or rule.quota
        # By position, without the names: this is done for every descriptor of every request.
        plan.limits.append(_tuple(Planned, (limit, hits, len(plan.operations), None, False, False, False, reset)))
        plan.operations.append(_tuple(Operation, (key, action, hits, rate.amount, ttl, None, now, rate.seconds == 1)))

    def _correct(self, plan: Plan, limit: Limit, hits: int, operation: Operation) -> None:
        if self.local is not None and operation.hits < 0:
            self.local.discard(operation.key)
        plan.limits.append(Planned(limit, hits, len(plan.operations), settles=True))
        plan.operations.append(operation)

    def _count(self, plan: Plan, limit: Limit, hits: int, now: int) -> None:
        rule = limit.rule
        rate = rule.rate
        action = self._action(rule)
        plan.quota = plan.quota or rule.quota
        bound = rate.amount if hits or not rule.strict else rate.amount - 1
        if rule.algorithm is not Algorithm.FIXED_WINDOW:
            plan.limits.append(Planned(limit, hits, len(plan.operations)))
            shape, ttl = _shape(rule)
            if bound < rate.amount and rule.algorithm in BUCKETS:
                # A bucket is over its size, and its limit is how fast it is refilled.
                shape, bound = shape._replace(burst=shape.burst - 1), rate.amount
            key = self._prefix + limit.counter
            plan.operations.append(Operation(key, action, hits, bound, ttl, shape, now, rate.seconds == 1))
            return
        key, end = limit.window(now)
        key = self._prefix + key
        if self.local is not None and self.local.over(key, now):
            plan.cached = plan.cached or action is not Action.WATCH
            plan.limits.append(Planned(limit, hits, None, Count(rate.amount + 1, over=True), local=True))
            return
        asked = hits
        leased = rule.lease > 0 and hits > 0
        plan.leased = plan.leased or rule.lease > 0
        if leased:
            value = self.leases.take(key, hits)
            if value is not None:
                plan.limits.append(Planned(limit, hits, None, Count(value, over=False), leased=True))
                return
            asked = self.leases.size(key, hits, rule.lease, rate.amount)
            if asked > hits:
                action = Action.RESERVE
        ttl = end - now + TTL_SLACK
        if self._jitter:
            ttl += int(self._dice() * self._jitter)
        plan.limits.append(Planned(limit, hits, len(plan.operations), None, False, leased))
        plan.operations.append(Operation(key, action, asked, bound, ttl, None, now, rate.seconds == 1))

    def _action(self, rule: Rule) -> Action:
        if rule.shadow or rule.quota or self._watch_all:
            return Action.WATCH
        return Action.RESERVE if rule.mode is Mode.RESERVE else self._consume

    def key(self, limit: Limit, now: int) -> str:
        """The key of a limit's counter in the window of `now`."""
        return self._prefix + limit.window(now)[0]

    def remember(self, limit: Limit, now: int) -> None:
        """A counter is over its limit: with a local cache the store is not asked again in its window."""
        if self.local is not None and limit.rule.algorithm is Algorithm.FIXED_WINDOW:
            key, end = limit.window(now)
            self.local.put(self._prefix + key, end)

    def without_leases(self, plan: Plan, counts: Sequence[Count]) -> Again | None:
        """What to ask once more when a lease was too much to ask: then no reserve of the decision was counted.

        None when no lease was refused. What has counted whatever the verdict is not asked again.
        """
        oversized = {
            one.operation: one
            for one in plan.limits
            if one.leased and one.operation is not None and plan.operations[one.operation].hits > one.hits
        }
        if not any(counts[place].over for place in oversized):
            return None
        for place, one in oversized.items():
            self.leases.refused(plan.operations[place].key, counts[place].value)
            plan.operations[place] = plan.operations[place]._replace(hits=one.hits, action=self._action(one.limit.rule))
        places = [
            place
            for place, one in enumerate(plan.operations)
            if place in oversized or one.action in (Action.RESERVE, Action.STOP)
        ]
        return Again([plan.operations[place] for place in places], places)

    def without_held(self, plan: Plan, counts: Sequence[Count]) -> Sequence[Count]:
        """Counters less what this process holds of them, or is about to: nobody has used that."""
        seen = list(counts)
        for one in plan.limits:
            if one.operation is None or not one.limit.rule.lease or one.settles:
                continue
            operation, count = plan.operations[one.operation], counts[one.operation]
            if not count.over:
                held = self.leases.held(operation.key) + operation.hits - one.hits
                seen[one.operation] = count._replace(value=max(0, count.value - held))
        return seen

    def end_leases(self, plan: Plan, counts: Sequence[Count] | None, now: int, *, over: bool) -> None:
        """The decision is made: what the store counted beyond the call's need is kept for the next ones.

        `counts` None: the store did not answer.
        """
        for one in plan.limits:
            if not one.leased:
                continue
            if one.operation is None:
                if over and one.limit.rule.mode is Mode.RESERVE:
                    self.leases.give_back(self.key(one.limit, now), one.hits)
                continue
            operation = plan.operations[one.operation]
            if counts is None:
                self.leases.refused(operation.key)
            elif counts[one.operation].over or (over and operation.action is Action.RESERVE):
                self.leases.refused(operation.key, counts[one.operation].value)
            else:
                self.leases.granted(operation.key, operation.hits, one.hits, counts[one.operation].value)


def _reserved(plan: Plan) -> tuple[tuple[str, Settlement], ...]:
    reservations: list[tuple[str, Settlement]] = []
    for one in plan.limits:
        if one.limit.rule.mode is Mode.RESERVE:
            reserve(reservations, one.limit.rule, one.hits, plan.second)
    return tuple(reservations)


def reserve(reservations: list[tuple[str, Settlement]], rule: Rule, hits: int, now: int) -> None:
    """Add what the rule reserves, unless nobody is to know it, by its label; with a number when the call has met the
    same rule before: `label#2`."""
    if rule.final:
        return
    label = rule.label
    number = sum(one == label or one.startswith(f"{label}#") for one, _ in reservations) if reservations else 0
    reservations.append((f"{label}#{number + 1}" if number else label, Settlement(hits, now)))


class Again(NamedTuple):
    """Operations that are asked once more, and their places among the first ones."""

    operations: list[Operation]
    places: list[int]

    def merged(self, first: Sequence[Count], second: Sequence[Count]) -> list[Count]:
        """The first answers, with the second where there is one."""
        counts = list(first)
        for place, count in zip(self.places, second, strict=True):
            counts[place] = count
        return counts


def believed(rule: Rule, settlement: Settlement, now: int) -> Settlement:
    """The settlement, unless nobody can have been given it: more than the limit allows is never reserved."""
    if settlement.reserved > max(rule.rate.amount, rule.burst) and not rule.shadow:
        return Settlement(0, now)
    return settlement


def settling(limit: Limit, settlement: Settlement, used: int, now: int, prefix: str) -> Operation:
    """What corrects a counter when `used` hits replace those of the settlement."""
    rule = limit.rule
    difference = used - settlement.reserved
    if rule.algorithm is not Algorithm.FIXED_WINDOW:
        shape, ttl = _shape(rule)
        key = prefix + limit.counter
        per_second = rule.rate.seconds == 1
        return Operation(key, Action.ADJUST, difference, rule.rate.amount, ttl, shape, settlement.at, per_second)
    start = rule.rate.start(now)
    if rule.rate.start(settlement.at) != start:
        # The window that was charged is not this one: only what was used beyond it is still owed here.
        difference = max(0, difference)
    ttl = rule.rate.until_reset(now) + TTL_SLACK
    key = prefix + counter_key(limit.counter, start)
    return Operation(key, Action.ADJUST, difference, 0, ttl, None, settlement.at, rule.rate.seconds == 1)


def _shape(rule: Rule) -> tuple[Shape, int]:
    """The algorithm's measures, and how long its state must live without being touched."""
    rate = rule.rate
    burst = rule.burst or rate.amount
    # A bucket larger than the amount needs longer than a window to fill.
    periods = 2 if burst <= rate.amount else 1 + -(-burst // max(1, rate.amount))
    return Shape(rule.algorithm, rate.seconds, burst), rate.seconds * periods + TTL_SLACK


def _replaced(rules: RuleSet, request: LimitRequest) -> frozenset[str]:
    """The names of the rules that others of this request put out of force."""
    matches = (rules.match(request.domain, descriptor) for descriptor in request.descriptors)
    names = {name for match in matches if match for limit in match.limits for name in limit.rule.replaces}
    return frozenset(names - {""})
