"""Explanations agree with the matching itself; the linter finds what is never reached and what collides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.explain import explain
from ratelimit.lint import lint
from ratelimit.rules import Descriptor, Node, RuleSet
from ratelimit.settings import RuleFile, build
from tests.ratelimit.factories import consume, reserve

LIMIT = "rate_limit: {unit: minute, requests_per_unit: 5}"


def rules(descriptors: str, domain: str = "d") -> RuleSet:
    return build([RuleFile("f", f"domain: {domain}\ndescriptors: [{descriptors}]")])


SET = rules(
    f"{{key: a, value: x, {LIMIT}}}, {{key: a, value: y}}, {{key: a, value: 'b*', {LIMIT}}}, "
    f"{{key: a, value: '*c', {LIMIT}}}, {{key: a, descriptors: [{{key: z, {LIMIT}}}]}}"
)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ((("a", "x"),), ["takes a=x, the exact value", "limited to 5/minute"]),
        ((("a", "y"),), ["it exempts this value"]),
        ((("a", "bc"),), ["takes a=b*, the first wildcard that matches"]),
        ((("a", "ac"),), ["takes a=*c", "after a=b*, which do not match"]),
        ((("a", "q"),), ["takes a, the key alone", "limits only for further entries"]),
        ((("a", "q"), ("z", "1")), ["limited to 5/minute"]),
        ((("a", "x"), ("z", "1")), ["the rules end one entry earlier", "entry 2 finds no rule"]),
        ((("k", "v"),), ["no rule has this key here (there are: a)"]),
    ],
)
def test_says_why(entries: tuple[tuple[str, str], ...], words: list[str]) -> None:
    text = "\n".join(explain(SET, "d", entries).lines())
    for word in words:
        assert word in text


def test_an_unknown_domain_is_named_with_those_that_are_known() -> None:
    assert explain(SET, "e", (("a", "x"),)).conclusion == "no limit: there is no domain 'e' (known: d)"


texts = st.text("ab*", max_size=3)
nodes = st.recursive(
    st.builds(Node, st.sampled_from("ab"), st.none() | texts.filter(bool), st.none() | st.just(consume(3))),
    lambda below: st.builds(
        Node,
        st.sampled_from("ab"),
        st.none() | texts.filter(bool),
        st.none() | st.just(reserve(3)),
        st.lists(below, max_size=3).map(tuple),
    ),
    max_leaves=8,
)


@given(
    st.lists(nodes, max_size=5, unique_by=lambda node: (node.key, node.value)),
    st.lists(st.tuples(st.sampled_from("abc"), texts), min_size=1, max_size=3),
)
def test_leads_where_the_matching_leads(tree: list[Node], entries: list[tuple[str, str]]) -> None:
    made = RuleSet({"d": tuple(tree)})
    explanation = explain(made, "d", tuple(entries))
    match = made.match("d", Descriptor(tuple(entries)))
    assert explanation.limits == (() if match is None else match.limits)
    assert explanation.conclusion.startswith("limited to") == bool(explanation.limits)
    where = made.domains["d"]
    for step in explanation.steps:
        found = [
            node for node in where if step.taken == (node.key if node.value is None else f"{node.key}={node.value}")
        ]
        assert bool(found) == bool(step.taken)
        where = found[-1].children if found else ()


def findings(descriptors: str) -> list[str]:
    return [str(one) for one in lint(rules(descriptors))]


@pytest.mark.parametrize(
    ("descriptors", "words"),
    [
        (f"{{key: a, value: 'x*', {LIMIT}}}, {{key: a, value: 'xy*', {LIMIT}}}", "d.a=xy*: is never reached: a=x*"),
        (f"{{key: a, value: '*', {LIMIT}}}, {{key: a, {LIMIT}}}", "d.a: is never reached: a=* matches every value"),
        (f"{{key: a, {LIMIT}}}, {{key: a_b, {LIMIT}}}", "d.a_b: may share its counter with d.a:"),
        (f"{{key: a, value: b_c, {LIMIT}}}, {{key: a_b, {LIMIT}}}", "d.a_b: may share its counter with d.a=b_c"),
        (f"{{key: a, {LIMIT}, descriptors: [{{key: z, {LIMIT}}}]}}", "d.a: may share its counter with d.a.z:"),
        ("{key: a, rate_limit: {unit: day, replaces: [{name: gone}]}}", "replaces 'gone', which no rule is named"),
        ("{key: a, shadow_mode: true, rate_limit: {unlimited: true}}", "is unlimited: shadow_mode"),
    ],
)
def test_finds(descriptors: str, words: str) -> None:
    (found,) = findings(descriptors)
    assert words in found


@pytest.mark.parametrize(
    "descriptors",
    [
        f"{{key: a, value: 'xy*', {LIMIT}}}, {{key: a, value: 'x*', {LIMIT}}}, {{key: a, {LIMIT}}}",
        f"{{key: a, value: 'x*', {LIMIT}}}, {{key: b, value: 'xy*', {LIMIT}}}",
        f"{{key: a, value: x, {LIMIT}}}, {{key: a_b, {LIMIT}}}",
        f"{{key: a, value: x, {LIMIT}, descriptors: [{{key: z, {LIMIT}}}]}}",
        "{key: a, limits: [1/s]}, {key: a_b, limits: [1/s]}",
        "{key: a, rate_limit: {unit: day, name: n}}, {key: b, rate_limit: {unit: day, replaces: [{name: n}]}}",
    ],
)
def test_is_silent_about_what_is_right(descriptors: str) -> None:
    assert findings(descriptors) == []


def test_domains_may_collide() -> None:
    made = RuleSet({"mesh": (), "mesh_internal": ()})
    assert [str(one) for one in lint(made)] == [
        "mesh_internal: counters may be those of domain 'mesh' too, for keys that begin with 'internal'"
    ]
