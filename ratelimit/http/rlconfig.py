"""The rules in force as lines of text, in the form that envoyproxy/ratelimit's `/rlconfig` has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ratelimit.rules import Algorithm, Mode, Node, OnError, Rule, RuleSet


def lines(rules: RuleSet) -> list[str]:
    """One line for each limit, sorted. What only our rules know stands at its end, when a rule says so."""
    return sorted(line for domain, nodes in rules.domains.items() for line in _lines(domain, nodes))


def _lines(path: str, nodes: Iterable[Node]) -> Iterator[str]:
    for node in nodes:
        own = f"{path}.{node.key}_{node.value}" if node.value else f"{path}.{node.key}"
        for rule in node.rules:
            yield f"{own}: {_limit(rule)}, {_modes(rule)}{_more(rule)}"
        yield from _lines(own, node.children)


def _limit(rule: Rule) -> str:
    if rule.unlimited:
        return "unit=UNKNOWN requests_per_unit=0"
    rate = rule.rate
    unit = rate.unit.name if rate.count == 1 and not rate.zone else rate.window
    return f"unit={unit} requests_per_unit={rate.amount}"


def _modes(rule: Rule) -> str:
    return f"shadow_mode: {str(rule.shadow).lower()}, quota_mode: {str(rule.quota).lower()}"


def _more(rule: Rule) -> str:
    said = {
        "algorithm": rule.algorithm.value if rule.algorithm is not Algorithm.FIXED_WINDOW else "",
        "burst": str(rule.burst or ""),
        "atomic": "true" if rule.mode is Mode.RESERVE else "",
        "strict": "true" if rule.strict else "",
        "on_error": rule.on_error.value if rule.on_error is not OnError.ERROR else "",
        "lease": str(rule.lease or ""),
    }
    return "".join(f", {name}: {value}" for name, value in said.items() if value)
