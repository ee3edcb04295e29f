"""How long a provider asks us to wait."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.balance.waits import HEADERS, LONGEST, duration, number, retry_after, until, wait

NOON = 1_767_268_800.0  # 2026-01-01 12:00:00 UTC

# Texts that are nearly right are more telling than any text.
NEARLY = st.one_of(
    st.text(max_size=40),
    st.from_regex(r"[0-9.\-+e]{0,12}(d|h|m|s|ms|us)?[0-9]{0,4}(s|ms)?"),
    st.from_regex(r"[0-9]{1,5}-[0-9]{1,3}-[0-9]{1,3}T[0-9:.]{1,12}(Z|[+-][0-9:]{1,6})?"),
    st.from_regex(r"(Mon|Tue), [0-9]{1,3} (Jan|Foo) [0-9]{1,6} [0-9:]{1,9} (GMT|[+-][0-9]{4,9})?"),
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3_723.5),
        ("2m59.56s", 179.56),
        ("1d", 86_400),
        ("9d", LONGEST),
        ("5m", 300),
        ("12", 12),
        (" 1.5s ", 1.5),
        ("", None),
        ("s", None),
        ("-1s", None),
        ("1s2m", None),
        ("1 s", None),
        ("٣s", None),
        ("1767268800", None),
        ("inf", None),
        ("1e3", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("30", 30),
        ("0.5", 0.5),
        ("99999999", LONGEST),
        (formatdate(NOON + 90, usegmt=True), 90),
        (formatdate(NOON - 90, usegmt=True), 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("-5", None),
        ("soon", None),
        ("nan", None),
        ("", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(text, NOON) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-01-01T12:00:20Z", 20),
        ("2026-01-01T13:00:20.5+01:00", 20.5),
        ("2026-01-01T11:00:00Z", 0),
        ("2026-01-01T12:00:20", 20),
        ("9999-12-31T23:59:59Z", LONGEST),
        ("0001-01-01T00:00:00+23:59", None),
        ("tomorrow", None),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    found = until(text, NOON)
    assert found in (seconds, 0.0) if text.startswith("0001") else found == seconds


def test_the_finest_word_wins() -> None:
    headers = {
        "retry-after-ms": "1500",
        "retry-after": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "9s",
    }
    assert wait(headers, NOON, rate_limited=True) == 1.5
    assert wait({**headers, "retry-after-ms": "x"}, NOON, rate_limited=True) == 2
    assert wait({**headers, "retry-after-ms": "x", "retry-after": "x"}, NOON, rate_limited=True) == 9


def test_only_what_is_used_up_is_waited_for() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "99",
        "x-ratelimit-reset-requests": "8ms",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "6s",
    }
    assert wait(headers, NOON, rate_limited=True) == 6
    assert wait({**headers, "x-ratelimit-remaining-tokens": "7"}, NOON, rate_limited=True) is None


def test_all_that_is_used_up_must_be_back() -> None:
    headers = {
        "anthropic-ratelimit-requests-remaining": "0",
        "anthropic-ratelimit-requests-reset": "2026-01-01T12:00:05Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-01-01T12:00:40Z",
        "anthropic-ratelimit-output-tokens-remaining": "0",
        "anthropic-ratelimit-output-tokens-reset": "never",
    }
    assert wait(headers, NOON, rate_limited=True) == 40


@given(NEARLY, st.floats(0, 1e11))
@example("Mon, 01 Jan 2024 00:00:00 +99999999999", NOON)
@example("Mon, 01 Jan 99999999999 00:00:00 GMT", NOON)
@example("0001-01-01T00:00:00+23:59", NOON)
def test_no_text_raises_or_is_negative(text: str, now: float) -> None:
    for seconds in (number(text), retry_after(text, now), duration(text), until(text, now)):
        assert seconds is None or seconds >= 0
    for seconds in (retry_after(text, now), duration(text), until(text, now)):
        assert seconds is None or seconds <= LONGEST


@given(st.dictionaries(st.sampled_from(HEADERS), NEARLY), st.booleans())
def test_no_headers_raise(headers: dict[str, str], rate_limited: bool) -> None:
    seconds = wait(headers, NOON, rate_limited=rate_limited)
    assert seconds is None or 0 <= seconds <= LONGEST


@given(st.floats(0, 86_000).map(lambda value: round(value, 3)))
def test_a_printed_duration_reads_as_itself(seconds: float) -> None:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    assert duration(f"{hours}h{minutes}m{rest:.3f}s") == pytest.approx(seconds, abs=0.002)
