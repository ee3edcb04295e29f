"""Matching at its corners: wildcards, settling entries, hostile text."""

from __future__ import annotations

import time
from dataclasses import replace
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.rules import MAX_HITS, Descriptor, Node, Rate, RuleSet, Settlement, Unit
from tests.ratelimit.factories import consume, reserve


@pytest.mark.parametrize("digits", ["9007199254740992", "9" * 5000])
def test_refuses_more_than_can_be_counted(digits: str) -> None:
    with pytest.raises(ValueError, match=r"too many \| at most 9007199254740991"):
        Rate.parse(f"{digits}/min")


@given(st.text() | st.from_regex(r"[0-9_]{1,12}\s*/[a-z]{1,6}"))
def test_any_text_is_a_rate_or_a_value_error(text: str) -> None:
    try:
        amount = Rate.parse(text).amount
    except ValueError:
        return
    assert 0 <= amount <= 0xFFFFFFFF


@pytest.mark.parametrize(
    ("text", "settlement"),
    [
        ("500@1700000040", Settlement(500, 1_700_000_040)),
        (f"{10**20}@5", Settlement(MAX_HITS, 5)),
        ("", Settlement(0, 0)),
        ("500", Settlement(0, 0)),
        ("-5@7", Settlement(0, 0)),
        ("5@-7", Settlement(0, 0)),
        ("5@7@9", Settlement(0, 0)),
        ("²@7", Settlement(0, 0)),
        ("9" * 5000 + "@1", Settlement(0, 0)),
    ],
)
def test_a_settlement_that_is_not_one_reserved_nothing(text: str, settlement: Settlement) -> None:
    assert Settlement.parse(text) == settlement


def found(nodes: tuple[Node, ...], *entries: tuple[str, str]) -> str | None:
    match = RuleSet({"d": nodes}).match("d", Descriptor(entries))
    return match.rule.label if match else None


def leaf(key: str, value: str | None, label: str) -> Node:
    return Node(key, value, consume(1, label))


def test_the_first_wildcard_of_the_file_wins() -> None:
    nodes = (leaf("k", "*b", "first"), leaf("k", "a*", "second"))
    assert found(nodes, ("k", "ab")) == "first"
    assert found(nodes, ("k", "ac")) == "second"


def test_a_value_that_is_a_wildcards_own_text_is_exact() -> None:
    nodes = (leaf("k", "*", "any"), leaf("k", "a*", "some"))
    assert found(nodes, ("k", "a*")) == "some"


def test_a_chosen_branch_is_not_left_for_a_sibling() -> None:
    nodes = (Node("a", "1", None, (leaf("b", "2", "exact"),)), Node("a", None, None, (leaf("b", None, "bare"),)))
    assert found(nodes, ("a", "1"), ("b", "3")) is None


def test_an_unknown_domain_has_no_limit_even_with_an_override() -> None:
    rules = RuleSet({"d": (leaf("k", None, "bare"),)})
    descriptor = Descriptor((("k", "v"),), override=Rate(3, Unit.HOUR))
    assert rules.match("other", descriptor) is None
    match = rules.match("d", descriptor)
    assert match is not None
    assert match.rule.rate == Rate(3, Unit.HOUR)


def test_settle_means_settling_only_below_a_rule_that_reserves() -> None:
    reserving = RuleSet({"d": (Node("k", None, reserve(10)),)}).match("d", Descriptor((("k", "v"), ("settle", "5@9"))))
    assert reserving is not None
    assert reserving.settlement == Settlement(5, 9)
    assert reserving.counter == "{d_k_v}"
    assert found((Node("k", None, reserve(10)),), ("k", "v"), ("settle", "5@9"), ("more", "x")) is None
    consuming = (Node("k", None, consume(10), (leaf("settle", None, "an ordinary key"),)),)
    assert found(consuming, ("k", "v"), ("settle", "5@9")) == "an ordinary key"
    assert found((Node("k", None, consume(10)),), ("k", "v"), ("settle", "5@9")) is None


@pytest.mark.parametrize(
    ("pattern", "value"), [("ab*ba", "aba"), ("*a*a", "a"), ("*a*ab", "ab"), ("a*b*", "a"), ("**b", "a")]
)
def test_no_character_is_matched_twice(pattern: str, value: str) -> None:
    assert found((leaf("k", pattern, "wild"),), ("k", value)) is None


@given(st.text("ab*", max_size=6).filter(lambda pattern: "*" in pattern), st.text("ab", max_size=9))
def test_wildcards_mean_what_they_mean_to_a_shell(pattern: str, value: str) -> None:
    assert (found((leaf("k", pattern, "wild"),), ("k", value)) == "wild") == fnmatchcase(value, pattern)


@given(st.text("a.b\n[?", min_size=1, max_size=6))
def test_nothing_but_the_asterisk_is_special(value: str) -> None:
    assert found((leaf("k", value + "*", "wild"),), ("k", value + "rest")) == "wild"
    assert found((leaf("k", value + "*", "wild"),), ("k", "x" + value)) is None


def test_no_value_makes_a_wildcard_slow() -> None:
    nodes = (leaf("k", "*a" * 20 + "*b", "wild"),)
    started = time.process_time()
    assert found(nodes, ("k", "a" * 5000)) is None
    assert time.process_time() - started < 1


@given(st.dictionaries(st.text(max_size=4), st.integers(1, 9), max_size=8), st.text(max_size=4))
def test_every_exact_value_finds_its_own_rule_and_no_other(values: dict[str, int], probe: str) -> None:
    nodes = tuple(leaf("k", value, value) for value in values if "*" not in value)
    for node in nodes:
        assert node.value is not None
        assert found(nodes, ("k", node.value)) == node.value
    if probe not in values:
        assert found(nodes, ("k", probe)) is None


@pytest.mark.parametrize(("shared", "stat"), [(False, "d.s_a1.k_"), (True, "d.s_a*.k")])
def test_a_detailed_key_shows_an_empty_value_as_envoyproxy_ratelimit_does(shared: bool, stat: str) -> None:
    detailed = Node("k", None, replace(consume(1, "k"), detailed=True))
    rules = RuleSet({"d": (Node("s", "a*", None, (detailed,), shared=shared),)})
    match = rules.match("d", Descriptor((("s", "a1"), ("k", ""))))
    assert match is not None
    assert match.limits[0].stat == stat
