"""The search of the meter, by itself: exact whatever comes and however it is cut, and never more than so many steps a
byte. (That it does its work inside the real Envoy: tests/e2e/test_metering.py.)"""

from __future__ import annotations

import itertools
import json
from functools import cache
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa import luajit21

_NUMBERS = (
    "total_tokens",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_OTHERS = ("reasoning_tokens", "details", "a{b", "name", "xx_total_tokens")
_DRIVE = """
function search(pieces, n)
  local meter, carry, _ = { join = larger }, "", nil
  for i = 1, n do _, carry = scan(meter, carry .. pieces[i], i == n) end
  return meter.total, meter.prompt, meter.completion, meter.cached
end

-- How many hundreds of instructions `search` takes; nothing is compiled while a hook is set.
function steps(pieces, n)
  local count = 0
  debug.sethook(function() count = count + 1 end, "", 100)
  search(pieces, n)
  debug.sethook()
  return count
end

function says_it_finishes(s) return finishes(s) and true or false end
"""
Found = tuple[int | None, int | None, int | None, int | None]


@cache
def _lua() -> Any:
    folder = resources.files("headgate.render")
    scripts = [folder.joinpath(name).read_text(encoding="utf-8") for name in ("keeper.lua", "meter.lua")]
    runtime = luajit21.LuaRuntime(encoding=None, unpack_returned_tuples=True)
    runtime.execute("\n".join([*scripts, _DRIVE]).encode())
    return runtime


def search(text: bytes, cuts: list[int]) -> Found:
    places = [0, *sorted({min(cut, len(text)) for cut in cuts}), len(text)]
    pieces = [text[start:end] for start, end in itertools.pairwise(places)]
    found: Found = _lua().globals().search(_lua().table_from(pieces), len(pieces))
    return found


def steps(text: bytes) -> int:
    return 100 * int(_lua().globals().steps(_lua().table_from([text]), 1))


def expected(usages: list[dict[str, Any]]) -> Found:
    """What stands in these usage objects, by a JSON parser: of each number the largest, and in each object the first."""
    most: dict[str, int] = {}

    def join(name: str, value: int | None) -> None:
        if value is not None:
            most[name] = max(value, most.get(name, value))

    for usage in usages:
        found: dict[str, int] = {}
        _walk(usage, found)
        total, cached = found.get("total_tokens"), found.get("cached_tokens")
        prompt = found.get("prompt_tokens", found.get("input_tokens"))
        completion = found.get("completion_tokens", found.get("output_tokens"))
        if total is None and prompt is not None:
            read = found.get("cache_read_input_tokens")
            prompt += (read or 0) + found.get("cache_creation_input_tokens", 0)
            cached = read if cached is None else cached
        for name, value in (("prompt", prompt), ("completion", completion), ("cached", cached)):
            join(name, value)
        if total is None and (prompt is not None or completion is not None):
            total = most.get("prompt", 0) + most.get("completion", 0)
        join("total", total)
    return most.get("total"), most.get("prompt"), most.get("completion"), most.get("cached")


def _walk(value: Any, found: dict[str, int]) -> None:
    if isinstance(value, list):
        for one in value:
            _walk(one, found)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name in _NUMBERS and isinstance(one, int) and name not in found:
                found[name] = one
            _walk(one, found)


_texts = st.sampled_from(["", "plain", '"', "{", "}", "\\", 'usage":{', '"total_tokens":5', "é\u2028", "x" * 50])
_numbers = st.integers(0, 10**9)
_values = st.recursive(
    _numbers | _texts | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NUMBERS + _OTHERS), inner, max_size=4),
    max_leaves=8,
)
_usages = st.dictionaries(st.sampled_from(_NUMBERS + _OTHERS), _values, max_size=7)
_answers = st.fixed_dictionaries(
    {"id": _texts, "choices": st.lists(_texts, max_size=2)}, optional={"usage": _usages | st.none(), "model": _texts}
)
_separators = st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])


@given(
    st.lists(_answers, min_size=1, max_size=5), _separators, st.booleans(), st.lists(st.integers(0, 1500), max_size=4)
)
def test_it_finds_what_a_parser_finds_wherever_the_answer_is_cut(
    answers: list[dict[str, Any]], separators: tuple[str, str], escaped: bool, cuts: list[int]
) -> None:
    text = "\n\n".join(json.dumps(one, separators=separators, ensure_ascii=escaped) for one in answers).encode()
    assert search(text, cuts) == expected([one["usage"] for one in answers if one.get("usage") is not None])


@pytest.mark.parametrize(
    "text",
    [
        b'"usage"' + b" " * 50_000 + b"x",
        (b'"usage"' + b" " * 500) * 100,
        b'"usage":{' * 10_000,
        b'"usage":{"' * 10_000,
        b'"usage":{"total_tokens":' + b" " * 50_000,
        b'"usage":' + b'{"a":' * 10_000,
        b'"usage":{"a":"' + b'\\"' * 25_000,
        b'"usage":{"total_tokens":' + b"9" * 50_000 + b"}",
        b"usage" * 10_000,
    ],
    ids=[
        "spaces",
        "spaces again and again",
        "objects",
        "strings",
        "a number to come",
        "depth",
        "escapes",
        "digits",
        "words",
    ],
)
def test_nothing_a_provider_sends_takes_more_than_so_many_steps_a_byte(text: bytes) -> None:
    assert steps(text) < 60 * (len(text) + 65_536)


@pytest.mark.parametrize(
    ("text", "finishes"),
    [
        (b'{"finish_reason":"stop"}', True),
        (b'{"finish_reason": "stop"}', True),
        (b'{"native_finish_reason":"x","finish_reason":null}', False),
        (b'{"finish_reason":null,"stop_reason":"end","finish_reason":"length"}', True),
        (b'_reason":"', False),
        (b"", False),
    ],
)
def test_a_finish_reason_is_one_of_that_name(text: bytes, finishes: bool) -> None:
    assert _lua().globals().says_it_finishes(text) is finishes
