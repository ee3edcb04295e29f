from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from extproc.cache.canonical import canonical
from tests.extproc.cache.bodies import BODIES, Tree, same_fold, unhurried, write

SEEDS = st.integers(0, 2**32)
DEEP = 100_000  # more than any Python reads: 3.11 stops at about 1,000, 3.13 at about 10,000


def say(tree: Tree, seed: int = 0) -> bytes:
    form = canonical(write(tree, Random(seed)))
    assert form is not None
    return form


@unhurried
@given(BODIES, SEEDS, SEEDS)
def test_however_it_is_written_it_is_the_same(tree: dict[str, Tree], one: int, other: int) -> None:
    assert say(tree, one) == say(tree, other) == canonical(say(tree))


@unhurried
@given(BODIES, BODIES)
def test_what_differs_in_anything_is_not_the_same(one: dict[str, Tree], other: dict[str, Tree]) -> None:
    assert (say(one, 1) == say(other, 2)) == (one == other)


@unhurried
@given(BODIES)
def test_without_spaces_and_escapes_the_same_holds(tree: dict[str, Tree]) -> None:
    raw = write(tree, Random(0), spaces=False, escapes=False, shuffled=False)
    assert canonical(raw) == say(tree)


def strict(raw: bytes) -> Any:
    """What Python's own parser makes of it, numbers as texts; raises on a key that stands twice."""

    def members(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if same_fold([name for name, _ in pairs]):
            raise ValueError
        return dict(pairs)

    return json.loads(
        raw.decode(), object_pairs_hook=members, parse_int=lambda x: ("n", x), parse_float=lambda x: ("n", x)
    )


PIECES = (
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"a"',
    '"A"',
    '"\\u0061"',
    '"b"',
    "1",
    "-0",
    "1.0",
    " ",
    "null",
    '"',
    "\\",
    "\\u00",
    "é",
    '"\\/"',
)


@unhurried
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example('{"a":1,"a":1}')
@example('{"a":[{"b":1,"\\u0062":1}]}')
@example('{"a":-0}')
@example('{"a":"\\/","b":-0}')
def test_what_has_a_form_another_parser_reads_alike(text: str) -> None:
    form = canonical(text.encode())
    if form is not None:
        assert strict(form) == strict(text.encode())
        assert "-0" not in text.replace("-0.", "")


def deep(inner: str) -> list[str]:
    return [
        inner,
        f'{{"x":{inner}}}',
        f'{{"x":[1,[{inner}]]}}',
        f'{{"x":"\\u0041","y":[{inner}]}}',
        f'{{"x": "\\/", "y":{inner} }}',
    ]


TWICE = (
    '{"a":1,"a":2}',
    '{"a":1,"a":1}',
    '{"a":1,"\\u0061":2}',
    '{"\\u0061":1,"b":2,"a":3}',
    '{"/":1,"\\/":1}',
    '{"":0,"":0}',
)
FOLDED = (
    '{"a":1,"A":1}',
    '{"stream":true,"Stream":false}',
    '{"é":1,"É":1}',
    '{"k":1,"\u212a":1}',
    '{"s":1,"\\u017f":1}',
)


@pytest.mark.parametrize("text", [text for inner in TWICE + FOLDED for text in deep(inner)])
def test_a_key_that_stands_twice_is_nobodys_question(text: str) -> None:
    assert canonical(text.encode()) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" ",
        b"[]",
        b"1",
        b'"a"',
        b"null",
        b"\xef\xbb\xbf{}",
        b"{}{}",
        b"{} \x00",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":1,}',
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":1}//',
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xc0\x80"}',
        b'{"\xff":1}',
        rb'{"a":"\ud800"}',
        rb'{"a":"\ud800x"}',
        rb'{"a":"\udc00\ud800"}',
        rb'{"\ud800":1}',
        b'{"a":-0}',
        b'{"a": [-0 ]}',
        rb'{"a":-0,"b":"\u0041"}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"\\u0061":' + b"[" * DEEP + b"]" * DEEP + b"}",
        '{"a":1}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32"),
    ],
)
def test_what_parsers_may_read_differently_has_no_form(raw: bytes) -> None:
    assert canonical(raw) is None


DISTINCT = (
    ("1", "1.0", "1e0", "1E0", "1.00", '"1"', "true", "[1]"),
    ("0", "0.0", "-0.0", "false", "null", '""', "[]", "{}", '"null"'),
    ("18446744073709551616", "18446744073709551617", "18446744073709551616.0", "1.8446744073709551616e19"),
    ("9007199254740993", "9007199254740992"),
    ('"é"', '"e\u0301"', '"E\u0301"', '"É"'),
    ('"K"', '"\u212a"', '"k"'),
    ('"ﬁ"', '"fi"'),
    ('"a"', '"A"', '"а"'),  # the last one is Cyrillic
    ('"a b"', '"a  b"', '"a\u00a0b"', '"a\\nb"', '"a\\\\nb"', '" a b"', '"a b\u200b"'),
    ("[1,2]", "[2,1]", "[1,2,2]", "[[1,2]]", "[[1],2]", "[12]"),
    ('{"b":1}', '{"b":1,"c":null}', '{"b":[1]}', '{"c":1}', '{"b":{"b":1}}'),
)


@pytest.mark.parametrize("values", DISTINCT)
def test_what_looks_alike_is_not_the_same(values: tuple[str, ...]) -> None:
    forms = {canonical(b'{"a":' + value.encode() + b"}") for value in values} | {canonical(b"{}")}
    assert len(forms) == len(values) + 1
    assert None not in forms


def test_a_name_in_another_case_alone_is_another_field() -> None:
    assert canonical(b'{"Stream":true}') != canonical(b'{"stream":true}')
    assert canonical(b'{"Stream":true}') is not None


def test_ignored_fields_are_those_at_the_top() -> None:
    ignore = frozenset({"user"})
    assert canonical(b'{"a":1,"user":"x"}', ignore) == canonical(b'{"user":null,"a":1}', ignore) == b'{"a":1}'
    assert canonical(b'{"a":{"user":1}}', ignore) == b'{"a":{"user":1}}'
    assert canonical(b'{"a":1,"user":"x","us\\u0065r":"y"}', ignore) is None
    assert canonical(b'{"a":1,"User":"x"}', ignore) == b'{"User":"x","a":1}'


def test_escapes_are_another_way_to_write_the_same() -> None:
    plain = '{"a/b":"/\\n","c":"A😀\x7f"}'
    ways = (
        r'{"a\/b":"\/\n","c":"A😀\u007f"}',
        r'{"a\/b":"/\u000a","c":"\u0041\ud83d\uDE00\u007F"}',
        r'{"a\/b":"/\n","c":"A😀\x7f"}',
    )
    assert {canonical(way.replace("\\x7f", "\x7f").encode()) for way in ways} == {plain.encode()}


def test_a_body_as_sdks_write_it_keeps_its_words() -> None:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Grüße\n“quoted” \\ 😀"}], "temperature": 0.1}
    forms = {
        canonical(json.dumps(body, ensure_ascii=ascii_only, separators=separators, indent=indent).encode())
        for ascii_only in (True, False)
        for separators, indent in (((",", ":"), None), ((", ", ": "), 2))
    }
    assert len(forms) == 1
    assert json.loads(forms.pop() or b"") == body
