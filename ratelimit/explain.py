"""Why a limit counts for a descriptor, or why none does. Pure; says what `RuleSet.match` does, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ratelimit.rules import Descriptor, Entries, Limit, Node, RuleSet, fits


class Step(NamedTuple):
    """One entry on its way down the tree: what stood there, what was taken, and why."""

    entry: tuple[str, str]
    taken: str  # the node as the rule file has it, `key` or `key=value`; empty when there is none
    why: str


class Explanation(NamedTuple):
    """The way of a descriptor through its domain, and where it led.

    `replaces` are names of rules that are out of force for a request that matches these limits too.
    """

    domain: str
    steps: tuple[Step, ...]
    limits: tuple[Limit, ...]
    conclusion: str

    def lines(self) -> list[str]:
        """For a person: one line per step, then the conclusion."""
        shown = [f"{step.entry[0]}={step.entry[1]}: {step.why}" for step in self.steps]
        return [f"domain {self.domain}", *shown, self.conclusion]


def explain(rules: RuleSet, domain: str, entries: Entries) -> Explanation:
    """The way of `entries` through the rules of `domain`."""
    match = rules.match(domain, Descriptor(entries))
    limits = () if match is None else match.limits
    if domain not in rules.domains:
        known = ", ".join(sorted(rules.domains)[:10]) or "none"
        return Explanation(domain, (), (), f"no limit: there is no domain '{domain}' (known: {known})")
    steps: list[Step] = []
    nodes: Sequence[Node] = rules.domains[domain]
    node: Node | None = None
    for number, (key, value) in enumerate(entries):
        step, node = _step(nodes, key, value)
        steps.append(step)
        if node is None:
            return Explanation(domain, tuple(steps), limits, f"no limit: entry {number + 1} finds no rule")
        nodes = node.children
    if match is not None and match.settlement is not None:
        text = f"settles {match.settlement} of {_rates(limits)}"
    elif node is None:
        text = "no limit: the descriptor has no entry"
    elif limits:
        text = f"limited to {_rates(limits)}"
    elif nodes:
        text = "no limit: the rule has limits only for further entries"
    else:
        text = "no limit: the rule has none (it exempts this value)"
    return Explanation(domain, tuple(steps), limits, text)


def _rates(limits: Sequence[Limit]) -> str:
    return ", ".join("unlimited" if limit.rule.unlimited else str(limit.rule.rate) for limit in limits)


def name(node: Node) -> str:
    """A node as the rule file has it."""
    return node.key if node.value is None else f"{node.key}={node.value}"


def _step(nodes: Sequence[Node], key: str, value: str) -> tuple[Step, Node | None]:
    entry = (key, value)
    mine = [node for node in nodes if node.key == key]
    exact = next((node for node in mine if node.value == value), None)
    if exact is not None:
        return Step(entry, name(exact), f"takes {name(exact)}, the exact value"), exact
    wildcards = [node for node in mine if node.value is not None and "*" in node.value]
    passed: list[str] = []
    for node in wildcards:
        if fits(node.value or "", value):
            order = f", after {', '.join(passed)}, which do not match" if passed else ""
            return Step(entry, name(node), f"takes {name(node)}, the first wildcard that matches{order}"), node
        passed.append(name(node))
    bare = next((node for node in mine if node.value is None), None)
    if bare is not None:
        why = "no exact value" + (" and no wildcard" if wildcards else "")
        return Step(entry, name(bare), f"takes {name(bare)}, the key alone ({why} matches)"), bare
    if not nodes:
        return Step(entry, "", "nothing: the rules end one entry earlier"), None
    if not mine:
        keys = ", ".join(sorted({node.key for node in nodes})[:10])
        return Step(entry, "", f"nothing: no rule has this key here (there are: {keys})"), None
    values = ", ".join(name(node) for node in mine[:10])
    return Step(entry, "", f"nothing: no rule for this value (there are: {values})"), None
