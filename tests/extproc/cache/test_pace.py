"""Kept streams as they fall due, with a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.pace import SHORTEST_PAUSE, events, paced

BODY = b"".join(b"data: %d\n\n" % number for number in range(40))


class Clock:
    """Goes on while somebody sleeps, and by `late` seconds more each time."""

    def __init__(self, late: float = 0.0) -> None:
        self.now = 100.0
        self.late = late
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds + self.late


async def replay(body: bytes, per_second: float, clock: Clock) -> list[tuple[float, bytes, bool]]:
    return [(clock.now - 100, piece, ends) async for piece, ends in paced(body, per_second, clock, clock.sleep)]


@given(st.lists(st.sampled_from([b"data: x", b"\n", b"\r\n", b"\r", b"\n\n", b"event: y", b""])).map(b"".join))
def test_events_are_the_body(body: bytes) -> None:
    assert b"".join(events(body)) == body
    assert all(events(body))


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_an_event_ends_with_its_blank_line(end: bytes) -> None:
    line = end[: len(end) // 2]
    first, second = b"event: a" + line + b"data: 1" + end, b"data: 2" + end
    assert events(first + second) == [first, second]


async def test_one_event_after_the_other() -> None:
    found = await replay(BODY, 20, Clock())
    assert b"".join(piece for _, piece, _ in found) == BODY
    assert [piece for _, piece, _ in found] == events(BODY)
    assert [at for at, _, _ in found] == pytest.approx([number / 20 for number in range(40)])
    assert [ends for _, _, ends in found] == [False] * 39 + [True]


@pytest.mark.parametrize("late", [0.001, 0.02, 0.5])
async def test_who_wakes_late_catches_up(late: float) -> None:
    found = await replay(BODY, 20, Clock(late))
    assert b"".join(piece for _, piece, _ in found) == BODY
    assert found[-1][0] <= 39 / 20 + late + 0.05


async def test_no_pause_is_shorter_than_the_shortest() -> None:
    clock = Clock()
    found = await replay(BODY, 1000, clock)
    assert b"".join(piece for _, piece, _ in found) == BODY
    assert min(clock.slept) >= SHORTEST_PAUSE * 0.99
    assert len(found) < 10


@pytest.mark.parametrize("body", [b"", b"data: x", b"data: x\n\n"])
async def test_a_short_one_comes_at_once(body: bytes) -> None:
    assert await replay(body, 1, Clock()) == [(0, body, True)]
