"""The fault table is complete, and reads as it is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from headgate.fake_provider.behaviour import Behaviour
from tests.faults.table import PATH, SHAPES, Case, Expected, Received, read, table

KINDS = {
    "none", "refuse", "reset_before_headers", "reset_in_body", "status_500", "status_503", "status_429_retry_after",
    "status_429", "hang", "slow_first_byte", "stall_in_stream", "broken_json", "truncated_sse", "tls_failure",
    "dns_failure", "status_400", "status_401", "status_404", "status_408", "status_409", "status_422",
    "first_chunk_delay",
}  # fmt: skip


def case(name: str) -> Case:
    return next(one for one in table() if one.name == name)


def test_every_fault_in_both_shapes_with_one_two_and_three_targets() -> None:
    assert {(one.kind, one.shape, one.count) for one in table()} == {
        (kind, shape, count) for kind in KINDS for shape in SHAPES for count in (1, 2, 3)
    }
    assert len({one.name for one in table()}) == len(table()) == 132


def test_every_behaviour_is_one_that_the_fake_provider_knows() -> None:
    for one in table():
        Behaviour.parse(one.fake)
        assert bool(one.fake) or one.port != "fake" or one.kind == "none"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none-3-plain", Expected("a", 200, 1, Received(1), "", "", True, False, (0, 1.5))),
        ("refuse-1-stream", Expected("", 503, 2, Received(), "provider_unreachable", "", True, False, (0, 1.5))),
        ("dns_failure-3-plain", Expected("c", 200, 3, Received(0, 0, 1), "", "", True, False, (0, 1.5))),
        (
            "reset_before_headers-1-plain",
            Expected("", 502, 2, Received(2), "provider_reset", "", True, False, (0, 1.5)),
        ),
        ("status_409-1-plain", Expected("a", 409, 2, Received(2), "", "", True, False, (0, 1.5))),
        ("status_503-2-stream", Expected("b", 200, 2, Received(1, 1), "", "", True, False, (0, 1.5))),
        ("status_429_retry_after-1-plain", Expected("a", 429, 1, Received(1), "", "7", True, False, (0, 1.5))),
        ("status_429_retry_after-2-plain", Expected("b", 200, 2, Received(1, 1), "", "", True, False, (0, 1.5))),
        ("hang-1-plain", Expected("", 504, 2, Received(2), "provider_timeout", "", True, False, (1.8, 4.5))),
        ("slow_first_byte-3-stream", Expected("c", 200, 3, Received(1, 1, 1), "", "", True, False, (1.8, 4.5))),
        ("status_404-3-plain", Expected("a", 404, 1, Received(1), "", "", True, False, (0, 1.5))),
        ("stall_in_stream-2-stream", Expected("a", 200, 1, Received(1), "", "", False, True, (0.9, 3))),
        ("broken_json-2-stream", Expected("a", 200, 1, Received(1), "", "", False, False, (0, 1.5))),
    ],
)
def test_expectations(name: str, expected: Expected) -> None:
    assert case(name).expected == expected


def test_what_is_expected_fits_together() -> None:
    for one in table():
        wanted = one.expected
        heard = (wanted.received.a, wanted.received.b, wanted.received.c)
        assert sum(heard) == wanted.attempts or one.port != "fake", one.name
        assert sum(heard[one.count :]) == 0, one.name
        assert bool(wanted.served_by) is not bool(wanted.code), one.name
        assert not (wanted.cut and wanted.whole), one.name
        assert wanted.seconds[0] < wanted.seconds[1], one.name


def test_who_has_the_fault() -> None:
    assert [case("hang-3-plain").faulty(letter) for letter in "abc"] == [True, True, False]
    assert [case("hang-2-plain").faulty(letter) for letter in "ab"] == [True, False]
    assert case("hang-1-plain").faulty("a")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rule: final, fake: \"\"", "rule: finally", "none: there is no rule 'finally'"),
        ("fake: hang=true", "fakes: hang=true", "unknown field `fakes`"),
        ("one: {status: 500}", "one: {statuses: 500}", "status_500: unknown statuses"),
        ("one: {status: 500}", "one: {received: {d: 1}}", "status_500: unknown d"),
        ("one: {status: 500}", "one: {status: bad}", "status_500-1-plain: Expected `int`"),
    ],
)  # fmt: skip
def test_a_slip_in_the_table_is_an_error(old: str, new: str, message: str) -> None:
    text = PATH.read_text(encoding="utf-8")
    assert old in text
    with pytest.raises(ValueError) as error:
        read(text.replace(old, new, 1))
    assert message in str(error.value)


def test_a_shape_may_have_an_expectation_of_its_own() -> None:
    text = PATH.read_text(encoding="utf-8").replace("fake: hang=true}", "fake: hang=true, stream: {attempts: 9}}")
    found = {one.name: one.expected for one in read(text)}
    assert found["hang-1-stream"] == replace(found["hang-1-plain"], attempts=9)
