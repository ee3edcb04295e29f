"""Rules: which limit counts for a descriptor. Pure: no I/O, no clock.

A rule set holds one tree per domain. A descriptor walks it entry by entry: at each level the exact value
wins, then the level's wildcards in the order of the file, then the bare key. A limit counts only when it
hangs on the node that the last entry reached.

A rule consumes in one of two modes. `CONSUME` is envoyproxy/ratelimit's: every call counts, those that are
denied too. `RESERVE` is all or nothing: a call that would pass the limit is denied and counts nothing; what
was reserved can later be settled to the real cost (see `Settlement`). How hits become a verdict is the rule's
algorithm (see ratelimit/algorithms); its windows are `ratelimit.windows`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from ratelimit.algorithms.fixed_window import counter_key

# What rules are made of, wherever it lives: who speaks of rules need not know.
from ratelimit.rule import BUCKETS as BUCKETS
from ratelimit.rule import Algorithm as Algorithm
from ratelimit.rule import Mode as Mode
from ratelimit.rule import OnError as OnError
from ratelimit.rule import Rule as Rule
from ratelimit.windows import MAX_AMOUNT as MAX_AMOUNT
from ratelimit.windows import SECONDS as SECONDS
from ratelimit.windows import Rate as Rate
from ratelimit.windows import Unit as Unit

SETTLE = "settle"  # key of the entry that settles a reservation instead of making one
MAX_HITS = 1_000_000_000_000  # more hits than that in one call count as that many

_MOST_KNOWN = 10_000
_LONGEST_KNOWN = 512


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


@dataclass(slots=True)
class Limit:
    """A rule that counts for a descriptor: its counter's name in the store, and its key in the metrics.

    It remembers the window of the moment, because the same limit is asked for many times in one window.
    """

    rule: Rule
    counter: str
    stat: str
    plain: bool = field(init=False, compare=False)
    _start: int = field(default=0, init=False, repr=False, compare=False)
    _end: int = field(default=0, init=False, repr=False, compare=False)
    _key: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.plain = self.rule.plain

    def window(self, now: int) -> tuple[str, int]:
        """The counter's key in the window of `now`, and when that window ends (unix seconds)."""
        if self._start <= now < self._end:
            return self._key, self._end
        rate = self.rule.rate
        self._start, self._end = rate.start(now), now + rate.until_reset(now)
        self._key = counter_key(self.counter, self._start)
        return self._key, self._end


class Match(NamedTuple):
    """What counts for a descriptor, the reservation that it settles, if any, and the rule's metadata."""

    limits: tuple[Limit, ...]
    settlement: Settlement | None = None
    metadata: Mapping[str, Any] | None = None

    @property
    def rule(self) -> Rule:
        """The first limit's rule: the only one, nearly always."""
        return self.limits[0].rule

    @property
    def counter(self) -> str:
        """The first limit's counter."""
        return self.limits[0].counter


_BRACES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def counter_name(domain: str, entries: Entries, rule: Rule) -> str:
    """What a counter is called in the store, without the start of its window.

    A plain fixed window that consumes is called byte for byte as envoyproxy/ratelimit calls it, so that both may
    share a Redis. Of every other rule the domain and the first entry are a hash tag: the counters of one tenant live
    together and can be decided in one step. Braces in it are escaped, because the first `}` would end the tag.
    Several limits of one descriptor, and other algorithms, carry their window and algorithm in the name.
    """
    fixed = rule.algorithm is Algorithm.FIXED_WINDOW
    if fixed and rule.mode is Mode.CONSUME:
        name = "_".join((domain, *(part for entry in entries for part in entry)))
        return f"{name}_{_window_name(rule)}" if rule.several else name
    (key, value), rest = entries[0], entries[1:]
    tag = f"{domain}_{key}_{value}".translate(_BRACES)
    name = "_".join((f"{{{tag}}}", *(part for entry in rest for part in entry)))
    return f"{name}_{_window_name(rule)}" if rule.several or not fixed else name


def _window_name(rule: Rule) -> str:
    """What tells several limits of one descriptor apart."""
    if rule.algorithm is Algorithm.FIXED_WINDOW:
        return f"[{rule.rate.window}]"
    return f"[{rule.algorithm.value}:{rule.rate.window}]"


@dataclass(frozen=True, slots=True)
class Node:
    """One level of a domain's tree. `value` None stands for the bare key; `*` in it makes it a wildcard.

    `also` are further limits of the same descriptor. `shared` (wildcards) counts every value as one. `value_in_metric`
    shows the request's value in the metrics. `metadata` goes to Envoy with the answer.
    """

    key: str
    value: str | None = None
    rule: Rule | None = None
    children: tuple[Node, ...] = ()
    also: tuple[Rule, ...] = ()
    shared: bool = False
    value_in_metric: bool = False
    metadata: Mapping[str, Any] | None = None

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every limit that hangs here."""
        return self.also if self.rule is None else (self.rule, *self.also)


@dataclass(frozen=True, slots=True)
class _Level:
    exact: Mapping[tuple[str, str], _Branch]
    wildcards: tuple[tuple[str, tuple[str, ...], _Branch], ...]
    bare: Mapping[str, _Branch]

    def find(self, key: str, value: str) -> tuple[_Branch, bool] | None:
        """The branch for an entry, and whether a wildcard led there."""
        branch = self.exact.get((key, value))
        if branch is not None:
            return branch, False
        for name, parts, candidate in self.wildcards:
            if name == key and _fits(parts, value):
                return candidate, True
        branch = self.bare.get(key)
        return None if branch is None else (branch, False)


@dataclass(frozen=True, slots=True)
class _Branch:
    node: Node
    rules: tuple[Rule, ...]
    below: _Level


def fits(pattern: str, value: str) -> bool:
    """Whether the wildcard pattern matches the value: each `*` stands for any text, also for none."""
    return _fits(tuple(pattern.split("*")), value) if "*" in pattern else pattern == value


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
        branch = _Branch(node, node.rules, _level(node.children) if node.children else _EMPTY)
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
    replacing: bool = field(init=False, compare=False)  # some rule replaces others
    mark: object = field(default_factory=object, init=False, repr=False, compare=False)  # no other set has the same
    _levels: Mapping[str, _Level] = field(init=False, repr=False, compare=False)
    # Answers that were found before, by domain and entries: they never change, the rules being what they are.
    _known: dict[tuple[str, Entries], Match | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        levels = {domain: _level(nodes) for domain, nodes in self.domains.items()}
        object.__setattr__(self, "_levels", MappingProxyType(levels))
        replacing = any(rule.replaces for nodes in self.domains.values() for rule in _all_rules(nodes))
        object.__setattr__(self, "replacing", replacing)

    def match(self, domain: str, descriptor: Descriptor) -> Match | None:
        """What counts for `descriptor`, or None when there is no limit."""
        entries = descriptor.entries
        if descriptor.override is not None:
            if domain not in self._levels:
                return None
            rule = Rule(descriptor.override, label="override")
            shown = ".".join(f"{key}_{value}" if value else key for key, value in entries)
            return Match((Limit(rule, counter_name(domain, entries, rule), f"{domain}.{shown}"),))
        if entries and entries[-1][0] == SETTLE:
            reserved = self._find(domain, entries[:-1])
            if reserved is not None:
                limits = tuple(one for one in reserved.limits if one.rule.mode is Mode.RESERVE)
                if limits:
                    return Match(limits, Settlement.parse(entries[-1][1]))
        return self._find(domain, entries)

    def node(self, domain: str, entries: Entries) -> Node | None:
        """The node that the last entry reaches, whether it has a limit or not."""
        path = self._path(domain, entries)
        return path[-1][0].node if path else None

    def _path(self, domain: str, entries: Entries) -> list[tuple[_Branch, bool]]:
        """The branch of each entry, and whether a wildcard led there; nothing when an entry finds none."""
        level = self._levels.get(domain)
        path: list[tuple[_Branch, bool]] = []
        for key, value in entries:
            found = None if level is None else level.find(key, value)
            if found is None:
                return []
            path.append(found)
            level = found[0].below
        return path

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
        path = self._path(domain, entries)
        if not path or not path[-1][0].rules:
            return None
        counted: list[tuple[str, str]] = []  # the entries as the counter sees them
        shown = [domain]
        sharing = False
        for (key, value), (branch, wildcard) in zip(entries, path, strict=True):
            shared = wildcard and branch.node.shared
            sharing = sharing or shared
            counted.append((key, branch.node.value or "") if shared else (key, value))
            seen = _seen_value(branch.node, value, wildcard=wildcard)
            shown.append(f"{key}_{seen}" if seen else key)
        named = tuple(counted)
        stat = ".".join(shown)
        # envoyproxy/ratelimit's key to the byte: an empty value leaves its underscore, unless a pattern is shared.
        detail = ".".join((domain, *(f"{key}_{value}" if value or not sharing else key for key, value in counted)))
        limits = []
        for rule in branch.rules:
            key = detail if rule.detailed else stat
            # The metrics count each of several limits for itself: a call is one hit of each.
            key = f"{key}_{_window_name(rule)}" if rule.several else key
            limits.append(Limit(rule, counter_name(domain, named, rule), key))
        return Match(tuple(limits), None, branch.node.metadata)


def _seen_value(node: Node, value: str, *, wildcard: bool) -> str:
    """The value that the metrics show for an entry: the file's, unless the node asks for the request's."""
    if wildcard:
        return value if node.value_in_metric and not node.shared else node.value or ""
    if node.value is not None:
        return value
    return value if node.value_in_metric else ""


def _all_rules(nodes: Iterable[Node]) -> Iterable[Rule]:
    for node in nodes:
        yield from node.rules
        yield from _all_rules(node.children)
