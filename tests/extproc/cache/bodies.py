"""JSON values that keep the text of their numbers, random ones, and every way to write one down."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it is written."""

    text: str


Tree: TypeAlias = "dict[str, Tree] | list[Tree] | str | Number | bool | None"

NUMBERS = ("0", "1", "1.0", "1e0", "1E0", "10", "-1", "0.1", "0.10", "1e-1", "-0.0", "18446744073709551616", "1e999")
# Pairs that look or fold alike, and what JSON escapes.
TEXTS = (
    "",
    "a",
    "A",
    "é",
    "e\u0301",
    "K",
    "ss",
    "/",
    "\\",
    '"',
    "\n",
    "\x00",
    "\x7f",
    "\u2028",
    "😀",
    "\\u0041",
    "a:b",
    "{",
    ",",
)
WORDS = ("hello", "world", 'say "no"', "C:\\users", "line\nbreak", "größer", "日本語", "a/b", "😀", "tab\t", "\\n")

# The machine may be busy with something else.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def same_fold(names: list[str]) -> bool:
    return len({name.casefold() for name in names}) != len(names)


_numbers = (
    st.sampled_from(NUMBERS) | st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
)
_texts = st.sampled_from(TEXTS) | st.text(max_size=8)
_leaves: st.SearchStrategy[Tree] = (
    st.none()
    | st.booleans()
    | _texts
    | _numbers.map(lambda text: Number(text.removeprefix("-") if text == "-0" else text))
)


def _inner(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
    objects = st.dictionaries(_texts, children, max_size=4).filter(lambda made: not same_fold(list(made)))
    return st.lists(children, max_size=4) | objects


TREES = st.recursive(_leaves, _inner, max_leaves=12)
BODIES: st.SearchStrategy[dict[str, Tree]] = st.dictionaries(_texts, TREES, max_size=5).filter(
    lambda made: not same_fold(list(made))
)


def write(tree: Tree, random: Random, *, spaces: bool = True, escapes: bool = True, shuffled: bool = True) -> bytes:
    """One of the ways to write this value."""

    def gap() -> str:
        return random.choice(("", "", " ", "\n", "\t", "\r\n  ")) if spaces else ""

    def text(value: str) -> str:
        if random.random() < 0.8:  # as SDKs do
            return json.dumps(value, ensure_ascii=escapes and random.random() < 0.5)
        return '"' + "".join(_character(one, random, escapes) for one in value) + '"'

    def one(part: Tree) -> str:
        if isinstance(part, dict):
            names = list(part)
            if shuffled:
                random.shuffle(names)
            members = [f"{gap()}{text(name)}{gap()}:{gap()}{one(part[name])}{gap()}" for name in names]
            return "{" + (",".join(members) or gap()) + "}"
        if isinstance(part, list):
            return "[" + (",".join(f"{gap()}{one(item)}{gap()}" for item in part) or gap()) + "]"
        if isinstance(part, str):
            return text(part)
        if isinstance(part, Number):
            return part.text
        return {True: "true", False: "false", None: "null"}[part]

    return f"{gap()}{one(tree)}{gap()}".encode()


_SHORT = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}


def _character(one: str, random: Random, escapes: bool) -> str:
    ways = [_SHORT[one]] if one in _SHORT else [] if one < " " else [one]
    if escapes and one == "/":
        ways.append("\\/")
    if (escapes and random.random() < 0.2) or not ways:
        units = one.encode("utf-16-be")
        hexes = [units[at : at + 2].hex() for at in range(0, len(units), 2)]
        return "".join("\\u" + (digits.upper() if random.random() < 0.5 else digits) for digits in hexes)
    return random.choice(ways)


def request(random: Random) -> dict[str, Tree]:
    """A chat as clients send them."""

    def said() -> str:
        return " ".join(random.choices(WORDS, k=random.randint(1, 6)))

    body: dict[str, Tree] = {
        "model": random.choice(("gpt-4o", "gpt-4o-mini", "GPT-4o", "fast")),
        "messages": [
            {"role": random.choice(("user", "assistant", "system")), "content": said()}
            for _ in range(random.randint(1, 4))
        ],
    }
    stops: list[Tree] = [[], ["\n"], None, "END"]
    options: dict[str, Tree] = {
        "temperature": Number(random.choice(("0", "0.0", "0.7", "1"))),
        "stream": random.random() < 0.5,
        "max_tokens": Number(str(random.randint(1, 4000))),
        "stop": random.choice(stops),
        "user": f"user-{random.randint(1, 99)}",
        "tools": [
            {"type": "function", "function": {"name": said(), "parameters": {"type": "object", "properties": {}}}}
        ],
        "x_unknown": {"deep": [[], {}, [Number("1.50")]]},
    }
    for name in random.sample(sorted(options), random.randint(0, len(options))):
        body[name] = options[name]
    return body


def mutate(tree: Tree, random: Random) -> Tree:
    """The same with one change somewhere; what comes out may still be the same."""
    if isinstance(tree, dict) and tree and random.random() < 0.85:
        name = random.choice(list(tree))
        kind = random.random()
        if kind < 0.7:
            return {**tree, name: mutate(tree[name], random)}
        rest = {key: part for key, part in tree.items() if key != name}
        if kind < 0.8:
            return rest
        if kind < 0.9:
            return {**tree, name: None}
        other = name + random.choice(string.ascii_lowercase)
        return tree if same_fold([*rest, other]) else {**rest, other: tree[name]}
    if isinstance(tree, list) and tree and random.random() < 0.85:
        at = random.randrange(len(tree))
        kind = random.random()
        if kind < 0.7:
            return [*tree[:at], mutate(tree[at], random), *tree[at + 1 :]]
        if kind < 0.8:
            return tree[:at] + tree[at + 1 :]
        return tree[::-1] if kind < 0.9 else [*tree, tree[at]]
    if isinstance(tree, str) and random.random() < 0.8:
        at = random.randint(0, len(tree))
        return random.choice(
            (tree.swapcase(), tree[:at] + random.choice(TEXTS) + tree[at:], tree[:at] + tree[at + 1 :])
        )
    return random.choice((None, True, False, "", [], {}, [tree], Number("0"), Number("1.0"), str(tree)))
