"""Rules: which limit counts for a descriptor. Pure: no I/O, no clock.

A rule set holds one tree per domain. A descriptor walks it entry by entry: at each level the exact value
wins, then the level's wildcards in the order of the file, then the bare key. A limit counts only when it
hangs on the node that the last entry reached.

A rule consumes in one of two modes. `CONSUME` is envoyproxy/ratelimit's: every call counts, those that are
denied too. `RESERVE` is all or nothing: a call that would pass the limit is denied and counts nothing; what
was reserved can later be settled to the real cost (see `Settlement`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

SETTLE = "settle"  # key of the entry that settles a reservation instead of making one
MAX_AMOUNT = 0xFFFFFFFF  # the wire's requests_per_unit is a uint32
MAX_HITS = 1_000_000_000_000  # more hits than that in one call count as that many

_RATE = re.compile(r"\s*([0-9][0-9_]*)\s*/\s*([A-Za-z]+)\s*")
_MOST_DIGITS = 32
_MOST_KNOWN = 10_000
_LONGEST_KNOWN = 512


class Unit(IntEnum):
    """A window's length; the numbers are envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.Unit's."""

    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7

    @property
    def seconds(self) -> int:
        """The window in seconds. A month counts 30 days, a year 365."""
        return SECONDS[self]


SECONDS = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3_600,
    Unit.DAY: 86_400,
    Unit.WEEK: 604_800,
    Unit.MONTH: 2_592_000,
    Unit.YEAR: 31_536_000,
}

_NAMES = {
    "s": Unit.SECOND, "sec": Unit.SECOND, "second": Unit.SECOND, "seconds": Unit.SECOND,
    "m": Unit.MINUTE, "min": Unit.MINUTE, "minute": Unit.MINUTE, "minutes": Unit.MINUTE,
    "h": Unit.HOUR, "hr": Unit.HOUR, "hour": Unit.HOUR, "hours": Unit.HOUR,
    "d": Unit.DAY, "day": Unit.DAY, "days": Unit.DAY,
    "w": Unit.WEEK, "week": Unit.WEEK, "weeks": Unit.WEEK,
    "mo": Unit.MONTH, "month": Unit.MONTH, "months": Unit.MONTH,
    "y": Unit.YEAR, "year": Unit.YEAR, "years": Unit.YEAR,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """So many hits per window. 0 blocks always."""

    amount: int
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Rate:
        """`60/min` as a rate. Raises `ValueError`, message and mend parted by ` | `."""
        match = _RATE.fullmatch(text)
        unit = _NAMES.get(match.group(2).lower()) if match else None
        if match is None or unit is None:
            raise ValueError(
                f"'{text}' is not a rate | write N/second, N/min, N/hour, N/day, N/week, N/month or N/year"
            )
        digits = match.group(1).replace("_", "")
        if len(digits) > _MOST_DIGITS or int(digits) > MAX_AMOUNT:
            raise ValueError(f"{digits[:_MOST_DIGITS]} is too many | at most {MAX_AMOUNT}")
        return cls(int(digits), unit)

    def __str__(self) -> str:
        return f"{self.amount}/{self.unit.name.lower()}"


class Mode(Enum):
    """How a rule counts (see the module's text)."""

    CONSUME = "consume"
    RESERVE = "reserve"


@dataclass(frozen=True, slots=True)
class Rule:
    """One limit.

    `name` is shown to clients of the service. `label` names the limit in metrics, headers and reservations: it
    must come from configuration, never from a request, and differ between RESERVE rules that meet in a request.
    An `unlimited` rule never counts; its rate means nothing.
    """

    rate: Rate
    mode: Mode = Mode.CONSUME
    name: str = ""
    label: str = ""
    unlimited: bool = False


Entries: TypeAlias = tuple[tuple[str, str], ...]


class Descriptor(NamedTuple):
    """What a request says of itself. `hits` None: as many as the request says; 0: check only."""

    entries: Entries
    hits: int | None = None
    override: Rate | None = None


class Settlement(NamedTuple):
    """A reservation to be settled: so many hits were reserved at that time (unix seconds)."""

    reserved: int
    at: int

    @classmethod
    def parse(cls, text: str) -> Settlement:
        """`<hits>@<unix seconds>`; anything else means that nothing was reserved."""
        hits, separator, at = text.partition("@")
        if separator and hits.isascii() and hits.isdigit() and at.isascii() and at.isdigit() and len(text) <= 40:
            return cls(min(int(hits), MAX_HITS), int(at))
        return cls(0, 0)

    def __str__(self) -> str:
        return f"{self.reserved}@{self.at}"


class Match(NamedTuple):
    """The rule for a descriptor, the name of its counter, and the reservation it settles, if any."""

    rule: Rule
    counter: str
    settlement: Settlement | None = None


_BRACES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def counter_name(domain: str, entries: Entries, mode: Mode) -> str:
    """What a counter is called in the store, without the start of its window.

    In `CONSUME` mode it is byte for byte envoyproxy/ratelimit's, so that both may share a Redis. In
    `RESERVE` mode the domain and the first entry are a hash tag: the counters of one tenant live together
    and can be decided in one step. Braces in it are escaped, because the first `}` would end the tag.
    """
    if mode is Mode.CONSUME:
        return "_".join((domain, *(part for entry in entries for part in entry)))
    (key, value), rest = entries[0], entries[1:]
    tag = f"{domain}_{key}_{value}".translate(_BRACES)
    return "_".join((f"{{{tag}}}", *(part for entry in rest for part in entry)))


@dataclass(frozen=True, slots=True)
class Node:
    """One level of a domain's tree. `value` None stands for the bare key; `*` in it makes it a wildcard."""

    key: str
    value: str | None = None
    rule: Rule | None = None
    children: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class _Level:
    exact: Mapping[tuple[str, str], _Branch]
    wildcards: tuple[tuple[str, tuple[str, ...], _Branch], ...]
    bare: Mapping[str, _Branch]

    def find(self, key: str, value: str) -> _Branch | None:
        branch = self.exact.get((key, value))
        if branch is not None:
            return branch
        for name, parts, candidate in self.wildcards:
            if name == key and _fits(parts, value):
                return candidate
        return self.bare.get(key)


@dataclass(frozen=True, slots=True)
class _Branch:
    rule: Rule | None
    below: _Level


def _fits(parts: tuple[str, ...], value: str) -> bool:
    """Whether `value` is the parts in their order with anything between them.

    Each part is sought once, leftmost first, which suffices: no value makes this slow, as it would a regular
    expression with several `.*`.
    """
    first, *middle, last = parts
    end = len(value) - len(last)
    at = len(first)
    if end < at or not value.startswith(first) or not value.endswith(last):
        return False
    for part in middle:
        found = value.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


_EMPTY = _Level(MappingProxyType({}), (), MappingProxyType({}))


def _level(nodes: Iterable[Node]) -> _Level:
    exact: dict[tuple[str, str], _Branch] = {}
    wildcards: list[tuple[str, tuple[str, ...], _Branch]] = []
    bare: dict[str, _Branch] = {}
    for node in nodes:
        branch = _Branch(node.rule, _level(node.children) if node.children else _EMPTY)
        if node.value is None:
            bare[node.key] = branch
            continue
        exact[node.key, node.value] = branch
        if "*" in node.value:
            wildcards.append((node.key, tuple(node.value.split("*")), branch))
    return _Level(MappingProxyType(exact), tuple(wildcards), MappingProxyType(bare))


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Every domain's rules; never changed, a reload builds another one."""

    domains: Mapping[str, tuple[Node, ...]] = field(default_factory=dict)
    _levels: Mapping[str, _Level] = field(init=False, repr=False, compare=False)
    # Answers that were found before, by domain and entries: they never change, the rules being what they are.
    _known: dict[tuple[str, Entries], Match | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        levels = {domain: _level(nodes) for domain, nodes in self.domains.items()}
        object.__setattr__(self, "_levels", MappingProxyType(levels))

    def match(self, domain: str, descriptor: Descriptor) -> Match | None:
        """The rule that counts for `descriptor`, or None when there is no limit."""
        entries = descriptor.entries
        if descriptor.override is not None:
            if domain not in self._levels:
                return None
            return Match(Rule(descriptor.override, label="override"), counter_name(domain, entries, Mode.CONSUME))
        if entries and entries[-1][0] == SETTLE:
            reserved = self._find(domain, entries[:-1])
            if reserved is not None and reserved.rule.mode is Mode.RESERVE:
                return reserved._replace(settlement=Settlement.parse(entries[-1][1]))
        return self._find(domain, entries)

    def _find(self, domain: str, entries: Entries) -> Match | None:
        asked = (domain, entries)
        try:
            return self._known[asked]
        except KeyError:
            found = self._walk(domain, entries)
        if sum(len(key) + len(value) for key, value in entries) <= _LONGEST_KNOWN:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[asked] = found
        return found

    def _walk(self, domain: str, entries: Entries) -> Match | None:
        level = self._levels.get(domain)
        rule = None
        for key, value in entries:
            branch = None if level is None else level.find(key, value)
            if branch is None:
                return None
            rule, level = branch.rule, branch.below
        return None if rule is None else Match(rule, counter_name(domain, entries, rule.mode))
