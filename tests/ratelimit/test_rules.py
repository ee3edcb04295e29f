"""Which rule counts for a descriptor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit.rules import Descriptor, Mode, Node, Rate, Rule, RuleSet, Settlement, Unit

LIMIT = Rule(Rate(5, Unit.MINUTE), label="limit")
OTHER = Rule(Rate(7, Unit.HOUR), label="other")
RESERVE = Rule(Rate(9, Unit.DAY), Mode.RESERVE, label="reserve")


def match(nodes: tuple[Node, ...], *entries: tuple[str, str], override: Rate | None = None) -> Rule | None:
    found = RuleSet({"d": nodes}).match("d", Descriptor(entries, override=override))
    return found.rule if found else None


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("60/min", Rate(60, Unit.MINUTE)),
        ("1/s", Rate(1, Unit.SECOND)),
        (" 100_000 / hour ", Rate(100_000, Unit.HOUR)),
        ("5/DAY", Rate(5, Unit.DAY)),
        ("0/week", Rate(0, Unit.WEEK)),
        ("4294967295/years", Rate(4_294_967_295, Unit.YEAR)),
        ("2/mo", Rate(2, Unit.MONTH)),
    ],
)
def test_rates(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize(
    "text",
    [
        "",
        "60",
        "/min",
        "60/",
        "-1/min",
        "1.5/min",
        "60/fortnight",
        "9007199254740992/s",
        "1/0s",
        "1/11y",
        "60/min/s",
        "٣/min",
    ],
)
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match=r" \| "):
        Rate.parse(text)


@given(st.integers(0, 0xFFFFFFFF), st.sampled_from(Unit))
def test_a_printed_rate_reads_as_itself(amount: int, unit: Unit) -> None:
    assert Rate.parse(str(Rate(amount, unit))) == Rate(amount, unit)


def test_exact_then_wildcards_in_order_then_bare() -> None:
    nodes = (
        Node("k", None, Rule(Rate(1, Unit.DAY), label="bare")),
        Node("k", "a*", Rule(Rate(2, Unit.DAY), label="first")),
        Node("k", "ab*", Rule(Rate(3, Unit.DAY), label="second")),
        Node("k", "abc", Rule(Rate(4, Unit.DAY), label="exact")),
    )
    labels = {value: getattr(match(nodes, ("k", value)), "label", None) for value in ("abc", "abd", "ax", "zz", "")}
    assert labels == {"abc": "exact", "abd": "first", "ax": "first", "zz": "bare", "": "bare"}
    assert match(nodes, ("other", "abc")) is None


def test_a_limit_counts_only_at_the_depth_of_the_last_entry() -> None:
    nodes = (Node("a", "1", LIMIT, (Node("b", "2", OTHER),)),)
    assert match(nodes, ("a", "1")) is LIMIT
    assert match(nodes, ("a", "1"), ("b", "2")) is OTHER
    assert match(nodes, ("a", "1"), ("b", "3")) is None
    assert match(nodes, ("b", "2")) is None
    assert match(nodes, ("a", "1"), ("b", "2"), ("c", "3")) is None


def test_an_exact_value_without_a_limit_is_a_whitelist() -> None:
    nodes = (Node("k", "free"), Node("k", None, LIMIT))
    assert match(nodes, ("k", "free")) is None
    assert match(nodes, ("k", "else")) is LIMIT


def test_an_override_needs_the_domain_and_nothing_else() -> None:
    rate = Rate(3, Unit.SECOND)
    assert match((), ("any", "thing"), override=rate) == Rule(rate, label="override")
    assert RuleSet({}).match("d", Descriptor((("a", "b"),), override=rate)) is None


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_wildcard_matches_any_text_between_its_parts(start: str, middle: str, end: str) -> None:
    start, end = start.replace("*", ""), end.replace("*", "")
    nodes = (Node("k", f"{start}*{end}", LIMIT),)
    assert match(nodes, ("k", f"{start}{middle}{end}")) is LIMIT


@given(st.text(max_size=10), st.text(max_size=10))
def test_patterns_are_no_regular_expressions(pattern: str, value: str) -> None:
    nodes = (Node("k", pattern, LIMIT),)
    if "*" not in pattern:
        assert (match(nodes, ("k", value)) is LIMIT) == (pattern == value)


def test_settle_goes_with_a_reserve_rule_only() -> None:
    rules = RuleSet({"d": (Node("k", "r", RESERVE), Node("k", "c", LIMIT))})
    found = rules.match("d", Descriptor((("k", "r"), ("settle", "12@34"))))
    assert found is not None
    assert (found.rule, found.counter, found.settlement) == (RESERVE, "{d_k_r}", Settlement(12, 34))
    assert rules.match("d", Descriptor((("k", "c"), ("settle", "12@34")))) is None
    assert rules.match("d", Descriptor((("settle", "12@34"),))) is None


@pytest.mark.parametrize("text", ["", "12", "@", "12@", "@34", "-1@34", "1.5@3", "a@b", "1@2@3", "9" * 41, "²@3"])
def test_a_malformed_settlement_reserved_nothing(text: str) -> None:
    assert Settlement.parse(text) == Settlement(0, 0)


@given(st.integers(0, 10**12), st.integers(0, 10**10))
def test_a_printed_settlement_reads_as_itself(hits: int, at: int) -> None:
    assert Settlement.parse(str(Settlement(hits, at))) == Settlement(hits, at)
