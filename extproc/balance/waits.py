"""How long a provider asks us to wait, from the headers of its answer. Pure; a value that makes no sense is ignored.

What is read, the first that says something:

1. `retry-after-ms` (OpenAI, Azure): the same as the next, only finer.
2. `retry-after`: seconds or an HTTP date (RFC 9110, 10.2.3).
3. of a rate limit only: the resets of those limits of which nothing remains; the longest, since all must be free again.

A reset whose limit has something left is not read, and with no limit at 0 nothing is said: it is the time until that
limit is whole again, which may be milliseconds for requests while it was the tokens that did not suffice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST = 86_400.0  # seconds: what is longer is cut to a day
_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{1,15})?")
_DURATION = re.compile(
    r"(?:(?P<d>[0-9]{1,9})d)?(?:(?P<h>[0-9]{1,9})h)?(?:(?P<m>[0-9]{1,9})m(?!s))?"
    r"(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,15})?)s)?(?:(?P<ms>[0-9]{1,9}(?:\.[0-9]{1,15})?)ms)?"
)
_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
# The header that says what remains of a limit, and the one that says when it is whole again.
_OPENAI = tuple((f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens"))
_ANTHROPIC = tuple(
    (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)
HEADERS: tuple[str, ...] = (
    "retry-after",
    "retry-after-ms",
    *(name for pair in (*_OPENAI, *_ANTHROPIC) for name in pair),
)


def wait(headers: Mapping[str, str], now: float, *, rate_limited: bool) -> float | None:
    """Seconds to wait (0 to `LONGEST`); None when the answer does not say. `now` is in unix seconds."""
    milliseconds = number(headers.get("retry-after-ms", ""))
    if milliseconds is not None:
        return min(milliseconds / 1_000.0, LONGEST)
    named = retry_after(headers.get("retry-after", ""), now)
    if named is not None or not rate_limited:
        return named
    resets = [duration(headers.get(reset, "")) for remaining, reset in _OPENAI if _is_used_up(headers, remaining)]
    resets += [until(headers.get(reset, ""), now) for remaining, reset in _ANTHROPIC if _is_used_up(headers, remaining)]
    return max((reset for reset in resets if reset is not None), default=None)


def _is_used_up(headers: Mapping[str, str], name: str) -> bool:
    return number(headers.get(name, "")) == 0.0


def number(text: str) -> float | None:
    """A plain decimal number that is not negative."""
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def retry_after(text: str, now: float) -> float | None:
    """Seconds, or an HTTP date; one that has passed is 0."""
    seconds = number(text)
    if seconds is not None:
        return min(seconds, LONGEST)
    try:
        return _from_now(parsedate_to_datetime(text), now)
    except (ValueError, OverflowError, IndexError, TypeError):
        return None


def duration(text: str) -> float | None:
    """OpenAI's way to write a time: `1s`, `6m0s`, `20ms`, `1h2m3.5s`; others write plain seconds."""
    text = text.strip()
    seconds = number(text)
    if seconds is None:
        match = _DURATION.fullmatch(text)
        if not text or match is None:
            return None
        seconds = sum(float(part) * _UNITS[unit] for unit, part in match.groupdict().items() if part)
    elif seconds > LONGEST:
        return None  # more likely a time of day than that many seconds
    return min(seconds, LONGEST)


def until(text: str, now: float) -> float | None:
    """Anthropic's way: the RFC 3339 time when it will be; one that has passed is 0."""
    try:
        return _from_now(datetime.fromisoformat(text.strip()), now)
    except (ValueError, OverflowError):
        return None


def _from_now(moment: datetime, now: float) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = moment.timestamp() - now
    if math.isnan(seconds):
        raise ValueError("no time")
    return min(max(seconds, 0.0), LONGEST)
