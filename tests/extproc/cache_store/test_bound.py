"""The bound is kept in bytes that Python has really given out."""

from __future__ import annotations

import pytest

from tests.extproc.cache_store.filling import fill


# A small store filled many times over: a million entries are `python -m tests.extproc.cache_store.filling`.
@pytest.mark.parametrize(("entries", "max_bytes", "size"), [(25_000, 6 << 20, 0), (10_000, 2 << 20, 300)])
def test_memory_stays_below_the_bound(entries: int, max_bytes: int, size: int) -> None:
    after, peak, store = fill(entries, max_bytes, size)
    counted = store.stats().bytes
    assert counted is not None
    assert 0.9 * max_bytes < counted <= max_bytes
    assert after <= counted
    assert peak <= 1.05 * max_bytes  # a table that grows is there twice for a moment
    assert after > 0.6 * counted  # nor is it counted twice
