"""A request taken apart: the text, and everything else, which must be equal."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.cache.canonical import canonical
from extproc.semantic.frame import Framed, Unfit, numbers, read


def taken(body: dict[str, Any], operation: str = "chat.completions", **rules: Any) -> Framed | Unfit:
    form = canonical(json.dumps(body).encode())
    assert form is not None
    return read(operation, form, **{"allow_tools": False, "max_text": 1000, **rules})


def chat(text: Any = "Hi", before: Any = (), **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [*before, {"role": "user", "content": text}], **more}


def frame(body: dict[str, Any], **how: Any) -> bytes:
    found = taken(body, **how)
    assert isinstance(found, Framed)
    return found.frame


def test_the_text_is_taken_out_and_all_else_stays() -> None:
    one, other = taken(chat("What is a lock?", temperature=0.0)), taken(chat("And a “mutex”?\n", temperature=0.0))
    assert isinstance(one, Framed)
    assert isinstance(other, Framed)
    assert (one.text, other.text) == ("What is a lock?", "And a “mutex”?\n")
    assert one.frame == other.frame
    assert json.loads(one.frame) == {"model": "m", "messages": [{"role": "user", "content": None}], "temperature": 0.0}


@pytest.mark.parametrize(
    "other",
    [
        chat(temperature=0),  # 0 is not 0.0
        chat(temperature=0.0, seed=1),
        chat(temperature=0.0, max_tokens=5),
        chat(temperature=0.0, stream=True),
        chat(temperature=0.0, response_format={"type": "json_object"}),
        chat(temperature=0.0, before=[{"role": "system", "content": "Be brief."}]),
        chat(temperature=0.0, before=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]),
        {"model": "m2", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.0},
        {"model": "m", "messages": [{"role": "user", "content": "Hi", "name": "bob"}], "temperature": 0.0},
    ],
)
def test_whatever_else_differs_makes_another_frame(other: dict[str, Any]) -> None:
    assert frame(chat(temperature=0.0)) != frame(other)


def test_earlier_turns_differ_in_a_letter() -> None:
    systems = [[{"role": "system", "content": text}] for text in ("Answer in French.", "Answer in Frisian.")]
    assert frame(chat(before=systems[0])) != frame(chat(before=systems[1]))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (chat(""), Unfit.TEXT),
        (chat("  \n"), Unfit.TEXT),
        (chat(None), Unfit.TEXT),
        (chat([{"type": "text", "text": "Hi"}]), Unfit.TEXT),
        (chat([{"type": "image_url", "image_url": {"url": "data:,"}}]), Unfit.TEXT),
        ({"model": "m", "messages": []}, Unfit.TEXT),
        ({"model": "m", "messages": "Hi"}, Unfit.TEXT),
        ({"model": "m", "messages": ["Hi"]}, Unfit.TEXT),
        ({"model": "m"}, Unfit.TEXT),
        ({"model": "m", "messages": [{"role": "assistant", "content": "Hi"}]}, Unfit.TEXT),
        ({"model": "m", "messages": [{"role": "tool", "content": "Hi"}]}, Unfit.TEXT),
        (chat("ä" * 501), Unfit.TOO_LONG),
        (chat(tools=[{"type": "function"}]), Unfit.TOOLS),
        (chat(functions=[{"name": "f"}]), Unfit.TOOLS),
    ],
)
def test_what_has_no_frame(body: dict[str, Any], why: Unfit) -> None:
    assert taken(body) is why


def test_tools_where_they_are_allowed_are_part_of_the_frame() -> None:
    one, other = (chat(tools=[{"type": "function", "function": {"name": name}}]) for name in "fg")
    assert frame(one, allow_tools=True) != frame(other, allow_tools=True)
    assert frame(chat(tools=[])) != frame(chat())


def test_operations() -> None:
    assert taken({"model": "m", "input": "Hi"}, "responses") == Framed("Hi", b'{"input":null,"model":"m"}')
    assert taken({"model": "m", "input": ["Hi"]}, "responses") is Unfit.TEXT
    assert taken({"model": "m", "prompt": "Hi"}, "completions") is Unfit.OPERATION
    assert taken({"model": "m", "input": "Hi"}, "embeddings") is Unfit.OPERATION


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ()),
        ("no number", ()),
        ("What is 15% of 240?", ("15", "240")),
        ("on 2023-03-01 at 10:30, 1,000.50 euros", ("2023-03-01", "10:30", "1,000.50")),
        ("v3.11", ("3.11",)),
        ("٣ or 3", ("٣", "3")),
    ],
)
def test_numbers(text: str, found: tuple[str, ...]) -> None:
    assert numbers(text) == found


@given(st.text(min_size=1).filter(lambda text: text.strip()), st.text(), st.text())
def test_the_frame_knows_nothing_of_the_text(text: str, system: str, other: str) -> None:
    def made(content: str) -> Framed | Unfit:
        before = [{"role": "system", "content": system}]
        return taken(chat(content, before), max_text=1_000_000)

    found, again = made(text), made("x")
    assert isinstance(found, Framed)
    assert isinstance(again, Framed)
    assert found.text == text
    assert found.frame == again.frame
    if other != system:
        assert frame(chat("x", [{"role": "system", "content": other}])) != found.frame
