from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.controls import Controls
from tests.extproc.cache.bodies import unhurried


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", Controls()),
        (b"no-store", Controls(no_store=True)),
        (b"No-Store , NO-CACHE", Controls(no_store=True, no_cache=True)),
        (b"no-cache", Controls(no_cache=True)),
        (b'no-cache="a, b"', Controls(no_cache=True)),
        (b"only-if-cached,max-age=60", Controls(only_if_cached=True, max_age=60)),
        (b"max-age=0", Controls(max_age=0)),
        (b'max-age="7"', Controls(max_age=7)),
        (b"max-age = 7", Controls(max_age=7)),
        (b"max-age=60, max-age=30", Controls(max_age=30)),
        (b"MAX-AGE=" + b"9" * 30_000, Controls(max_age=2**31)),
        (b"max-age=00000000000000000005", Controls(max_age=5)),
        (b"max-age", Controls(max_age=0)),
        (b"max-age=", Controls(max_age=0)),
        (b"max-age=-1", Controls(max_age=0)),
        (b"max-age=1.5", Controls(max_age=0)),
        (b"max-age=\xb2", Controls(max_age=0)),
        (b"max-age=\xd9\xa1", Controls(max_age=0)),
        (b"max-stale, max-stale=5, min-fresh=5, no-transform", Controls()),
        (b'x="a, no-store, \\" no-cache"', Controls()),
        (b'x="a, no-store', Controls(no_store=True)),
        (b"no-stores, no_store, xno-store", Controls()),
        (b";;==,,,=no-store,\xff\xfe", Controls(no_store=True)),
        (b"no-cache no-store", Controls(no_cache=True)),
    ],
)
def test_directives_of_a_request(value: bytes, expected: Controls) -> None:
    assert Controls.parse((value,)) == expected


def test_headers_may_stand_more_than_once() -> None:
    assert Controls.parse((b"no-cache", b"max-age=9"), (b"a", b"b")) == Controls(no_cache=True, max_age=9, salt=b"a\nb")
    assert Controls.parse((), (b"ab",)) != Controls.parse((), (b"a", b"b"))
    assert Controls.parse() == Controls()


@unhurried
@given(st.lists(st.binary(max_size=40)), st.lists(st.binary(max_size=9)))
def test_nothing_raises(control: list[bytes], salt: list[bytes]) -> None:
    Controls.parse(tuple(control), tuple(salt))


@pytest.mark.parametrize("piece", [b" ", b",", b'"', b"=", b"a", b"a ", b'a="', b'\\"', b"a=\\", b"= ", b"a= "])
def test_a_long_value_costs_no_more_than_its_length(piece: bytes) -> None:
    Controls.parse((piece * 30_000,))
