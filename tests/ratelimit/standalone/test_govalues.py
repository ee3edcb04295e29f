"""Values are read as Go reads them: what it refuses, we refuse."""

from __future__ import annotations

import pytest

from ratelimit.standalone import govalues


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(text: str) -> None:
    assert govalues.boolean(text) is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false(text: str) -> None:
    assert govalues.boolean(text) is False


@pytest.mark.parametrize("text", ["yes", "on", "tRUE", "", " true", "2"])
def test_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither true nor false \| write"):
        govalues.boolean(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("8080", 8080),
        ("-3", -3),
        ("+3", 3),
        ("0x1F", 31),
        ("010", 8),
        ("0o17", 15),
        ("0b11", 3),
        ("1_000", 1000),
    ],
)
def test_integers(text: str, value: int) -> None:
    assert govalues.integer(text) == value


@pytest.mark.parametrize("text", ["", "08", "1__0", "_1", "1.0", "1e3", "abc", "٣", " 1", "0x", "9" * 1000])
def test_no_integers(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number"):
        govalues.integer(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10), ("150us", 150e-6), ("150µs", 150e-6), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("-1s", -1),
        ("0", 0), ("+2ms", 0.002), ("3ns", 3e-9), ("1m0.5s", 60.5), ("24h", 86400),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert govalues.duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10", "1d", "s", "1 s", "1h 30m", "ten", "1.2.3s", "1hh", "-", "9" * 99 + "s"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        govalues.duration(text)


@pytest.mark.parametrize("text", ["inf", "nan", "0x1p-2", "", "1,5", "1_0"])
def test_no_decimals(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        govalues.decimal(text)


def test_pairs() -> None:
    assert govalues.pairs("a:b,c:d:e") == {"a": "b", "c": "d:e"}
    assert govalues.pairs("  ") == {}
    with pytest.raises(ValueError, match="colon") as raised:
        govalues.pairs("authorization=secret")
    assert "secret" not in str(raised.value)
