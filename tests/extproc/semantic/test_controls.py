"""What a client may say of the semantic cache."""

from __future__ import annotations

import pytest

from extproc.cache.controls import Controls
from extproc.semantic.controls import wants_exact


@pytest.mark.parametrize(
    ("values", "exact"),
    [
        ((), False),
        ((b"exact-only",), True),
        ((b"max-age=60, Exact-Only",), True),
        ((b"max-age=60", b" exact-only "), True),
        ((b"exact-only=1",), False),
        ((b"no-exact-only",), False),
    ],
)
def test_exact_only(values: tuple[bytes, ...], exact: bool) -> None:
    assert wants_exact(values) is exact


def test_the_exact_cache_passes_it_over() -> None:
    assert Controls.parse((b"exact-only, max-age=60",)) == Controls(max_age=60)
