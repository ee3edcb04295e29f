"""What rules say that nobody can have meant: rules that are never reached, and counters that two rules share. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ratelimit.explain import name
from ratelimit.rules import Algorithm, Mode, Node, Rule, RuleSet, fits


class Finding(NamedTuple):
    """One thing to look at. `path` is the descriptor's, from its domain on."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def lint(rules: RuleSet) -> list[Finding]:
    """Everything found, in the order of the rules."""
    names = {rule.name for nodes in rules.domains.values() for rule in _rules(nodes) if rule.name}
    findings = list(_domains(sorted(rules.domains)))
    for domain, nodes in rules.domains.items():
        findings += _level(nodes, domain, names)
    return findings


def _domains(domains: Sequence[str]) -> Iterator[Finding]:
    for one in domains:
        for other in domains:
            if other.startswith(f"{one}_"):
                yield Finding(
                    other,
                    f"counters may be those of domain '{one}' too, for keys that begin with '{other[len(one) + 1 :]}'",
                )


def _level(nodes: Sequence[Node], path: str, names: set[str]) -> Iterator[Finding]:
    yield from _unreached(nodes, path)
    yield from _collisions(nodes, path)
    for node in nodes:
        own = f"{path}.{name(node)}"
        for rule in node.rules:
            for replaced in rule.replaces:
                if replaced not in names:
                    yield Finding(own, f"replaces '{replaced}', which no rule is named")
            if rule.unlimited and (rule.shadow or rule.quota):
                yield Finding(own, "is unlimited: shadow_mode and quota_mode mean nothing")
        yield from _level(node.children, own, names)


def _unreached(nodes: Sequence[Node], path: str) -> Iterator[Finding]:
    earlier: list[Node] = []
    for node in nodes:
        if node.value is None or "*" not in node.value:
            continue
        for before in earlier:
            # A pattern that matches the other's own text, asterisks taken as any character, matches all that it does.
            if before.key == node.key and fits(before.value or "", node.value):
                yield Finding(
                    f"{path}.{name(node)}",
                    f"is never reached: {name(before)} stands before it and matches all that it matches",
                )
                break
        earlier.append(node)
    for node in nodes:
        if node.value is not None:
            continue
        everything = next((one for one in earlier if one.key == node.key and not (one.value or "").strip("*")), None)
        if everything is not None:
            yield Finding(f"{path}.{name(node)}", f"is never reached: {name(everything)} matches every value")


def _collisions(nodes: Sequence[Node], path: str) -> Iterator[Finding]:
    for node in nodes:
        for other in nodes:
            rest = other.key[len(node.key) + 1 :]
            if not other.key.startswith(f"{node.key}_") or not _plain(node) or not _plain(other):
                continue
            value = f"{rest}_{other.value or ''}"
            if node.value is None or fits(node.value, value) or node.value.startswith(f"{rest}_"):
                yield Finding(
                    f"{path}.{name(other)}",
                    f"may share its counter with {path}.{name(node)}: '{node.key}' with the value '{rest}_x' and "
                    f"'{other.key}' with the value 'x' make one key in the store; rename one of them",
                )
        open_value = node.value is None or "*" in node.value
        if open_value and not node.shared and _plain(node) and any(_plain(child) for child in node.children):
            child = next(child for child in node.children if _plain(child))
            yield Finding(
                f"{path}.{name(node)}",
                f"may share its counter with {path}.{name(node)}.{name(child)}: the value 'x_{child.key}_y' makes the "
                "same key in the store; do not let clients choose the value, or use `atomic: true` on one of them",
            )


def _plain(node: Node) -> bool:
    """Whether a limit here has a counter named as envoyproxy/ratelimit names it: parts joined by `_`."""
    return any(
        rule.algorithm is Algorithm.FIXED_WINDOW
        and rule.mode is Mode.CONSUME
        and not rule.unlimited
        and not rule.several
        for rule in node.rules
    )


def _rules(nodes: Sequence[Node]) -> Iterator[Rule]:
    for node in nodes:
        yield from node.rules
        yield from _rules(node.children)
