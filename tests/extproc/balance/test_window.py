"""Sliding counts, against counting again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from extproc.balance.window import Tally, Window


def test_the_window_slides() -> None:
    window = Window(3)
    window.add(10.0, failed=True)
    window.add(11.9, failed=False)
    assert window.tally(12.9) == Tally(1, 1)
    assert window.newest(12.0) == Tally(1, 0)
    assert window.tally(13.0) == Tally(1, 0)
    assert window.tally(1e9) == Tally(0, 0)
    window.add(1e9, failed=True)
    window.clear()
    assert window.tally(1e9) == Tally(0, 0)


@given(st.lists(st.tuples(st.floats(0, 5), st.booleans())))
def test_it_counts_what_is_in_it(steps: list[tuple[float, bool]]) -> None:
    window, now, added = Window(4, 2.0), 0.0, []
    for seconds, failed in steps:
        now += seconds
        window.add(now, failed=failed)
        added.append((now, failed))
    inside = [failed for at, failed in added if int(at // 2) > int(now // 2) - 4]
    assert window.tally(now) == Tally(inside.count(False), inside.count(True))
    newest = [failed for at, failed in added if int(at // 2) > int(now // 2) - 2]
    assert window.newest(now) == Tally(newest.count(False), newest.count(True))
