"""Rates and the windows they count in. Pure: the time is always given.

A window is aligned to the Unix epoch (envoyproxy/ratelimit's way: a month is 30 days, a year 365), or it is a calendar
day, week (from Monday), month or year in a time zone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MAX_AMOUNT = 2**53 - 1  # where Lua's numbers stop being exact; above 2**32 - 1 the wire shows 2**32 - 1
LONGEST = 10 * 31_536_000  # seconds: ten years

_RATE = re.compile(r"\s*([0-9][0-9_]*)\s*/\s*([0-9]{0,9})\s*([A-Za-z]+)\s*")
_MOST_DIGITS = 32


class Unit(IntEnum):
    """A window's unit; the numbers are envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.Unit's."""

    SECOND = 1
    MINUTE = 2
    HOUR = 3
    DAY = 4
    MONTH = 5
    YEAR = 6
    WEEK = 7

    @property
    def seconds(self) -> int:
        """The window in seconds. A month counts 30 days, a year 365."""
        return SECONDS[self]


SECONDS = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3_600,
    Unit.DAY: 86_400,
    Unit.WEEK: 604_800,
    Unit.MONTH: 2_592_000,
    Unit.YEAR: 31_536_000,
}
CALENDAR = frozenset({Unit.DAY, Unit.WEEK, Unit.MONTH, Unit.YEAR})

_NAMES = {
    "s": Unit.SECOND, "sec": Unit.SECOND, "second": Unit.SECOND, "seconds": Unit.SECOND,
    "m": Unit.MINUTE, "min": Unit.MINUTE, "minute": Unit.MINUTE, "minutes": Unit.MINUTE,
    "h": Unit.HOUR, "hr": Unit.HOUR, "hour": Unit.HOUR, "hours": Unit.HOUR,
    "d": Unit.DAY, "day": Unit.DAY, "days": Unit.DAY,
    "w": Unit.WEEK, "week": Unit.WEEK, "weeks": Unit.WEEK,
    "mo": Unit.MONTH, "month": Unit.MONTH, "months": Unit.MONTH,
    "y": Unit.YEAR, "year": Unit.YEAR, "years": Unit.YEAR,
}  # fmt: skip
_LETTERS = {
    Unit.SECOND: "s", Unit.MINUTE: "m", Unit.HOUR: "h", Unit.DAY: "d", Unit.WEEK: "w", Unit.MONTH: "mo", Unit.YEAR: "y",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rate:
    """So many hits per window of `count` units. 0 blocks always.

    With a `zone` (an IANA time zone) the window is one calendar day, week, month or year there. `seconds` is the
    window's length, of a calendar's the usual one.
    Raises `ValueError` for a window that there is not, message and mend parted by ` | `.
    """

    amount: int
    unit: Unit
    count: int = 1
    zone: str = ""
    seconds: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", SECONDS[self.unit] * self.count)
        if not 0 <= self.amount <= MAX_AMOUNT:
            raise ValueError(f"{str(self.amount)[:_MOST_DIGITS]} is too many | at most {MAX_AMOUNT}")
        if not 1 <= self.seconds <= LONGEST:
            raise ValueError(f"a window of {self.count} {self.unit.name.lower()}s | 1 second to ten years")
        if not self.zone:
            return
        if self.unit not in CALENDAR or self.count != 1:
            raise ValueError("a calendar has days, weeks, months and years | leave the time zone out")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"'{self.zone[:60]}' is no time zone | write one like Europe/Rome or UTC") from None

    @classmethod
    def parse(cls, text: str, zone: str = "") -> Rate:
        """`60/min`, `10/30s` or `1000/day` as a rate. Raises `ValueError`, message and mend parted by ` | `."""
        match = _RATE.fullmatch(text)
        unit = _NAMES.get(match.group(3).lower()) if match else None
        if match is None or unit is None:
            raise ValueError(
                f"'{text}' is not a rate | write N/second, N/min, N/hour, N/day, N/week, N/month, N/year or N/30s"
            )
        digits = match.group(1).replace("_", "")
        if len(digits) > _MOST_DIGITS:
            raise ValueError(f"{digits[:_MOST_DIGITS]} is too many | at most {MAX_AMOUNT}")
        return cls(int(digits), unit, int(match.group(2) or 1), zone)

    @property
    def per_second(self) -> bool:
        """Whether it is a plain rate per second, whose counters may live in a Redis of their own."""
        return self.seconds == 1

    @property
    def window(self) -> str:
        """A short name of the window, the same for all rates that share it: `1m`, `30s`, `1mo@Europe/Rome`."""
        text = f"{self.count}{_LETTERS[self.unit]}"
        return f"{text}@{self.zone}" if self.zone else text

    def start(self, now: int) -> int:
        """When the window that `now` (unix seconds) lies in began."""
        if self.zone:
            return _calendar(self.zone, self.unit, now)[0]
        return now - now % self.seconds

    def until_reset(self, now: int) -> int:
        """Whole seconds to the next window: at least 1."""
        if self.zone:
            return _calendar(self.zone, self.unit, now)[1] - now
        return self.seconds - now % self.seconds

    @property
    def words(self) -> str:
        """The window in words: `minute`, `30 seconds`."""
        unit = self.unit.name.lower()
        return unit if self.count == 1 else f"{self.count} {unit}s"

    def __str__(self) -> str:
        return f"{self.amount}/{self.words}" + (f" ({self.zone})" if self.zone else "")


def parse_window(text: str) -> tuple[int, Unit] | None:
    """`minute`, `30s` or `5m` as a number of units; None when it is neither. Any case."""
    match = re.fullmatch(r"([0-9]{0,9})\s*([A-Za-z]+)", text.strip())
    unit = _NAMES.get(match.group(2).lower()) if match else None
    return None if match is None or unit is None else (int(match.group(1) or 1), unit)


def _calendar(zone: str, unit: Unit, now: int) -> tuple[int, int]:
    """Start and end of the calendar's window around `now`."""
    start, end = _bounds(zone, unit, now // 900)  # every zone's offset is whole quarters of an hour nowadays
    return (start, end) if start <= now < end else _bounds_at(zone, unit, now)


@lru_cache(maxsize=1024)
def _bounds(zone: str, unit: Unit, quarter: int) -> tuple[int, int]:
    return _bounds_at(zone, unit, quarter * 900)


def _bounds_at(zone: str, unit: Unit, now: int) -> tuple[int, int]:
    place = ZoneInfo(zone)
    day = datetime.fromtimestamp(now, place).date()
    if unit is Unit.WEEK:
        first = day - timedelta(days=day.weekday())
        following = first + timedelta(days=7)
    elif unit is Unit.MONTH:
        first = day.replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
    elif unit is Unit.YEAR:
        first = day.replace(month=1, day=1)
        following = first.replace(year=first.year + 1)
    else:
        first, following = day, day + timedelta(days=1)
    start, end = (int(datetime(one.year, one.month, one.day, tzinfo=place).timestamp()) for one in (first, following))
    return start, end
