"""The canonical form of a JSON body: two bodies with the same form ask the same question."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

# Floats are kept as they are written; integers have one way to be written, but for -0.
_DECODER = msgspec.json.Decoder(dict[str, Any], float_hook=msgspec.Raw)
_ENCODER = msgspec.json.Encoder(order="sorted")
_NOTHING: frozenset[str] = frozenset()
_ESCAPES = re.compile(rb"\\[u/]")  # those that change their length
_FEW = 32  # objects that are looked at one by one; of more the whole text is read once more instead


def canonical(raw: bytes, ignore: frozenset[str] = _NOTHING) -> bytes | None:
    """The form of `raw` without its fields `ignore`; None where parsers may differ on what `raw` says.

    The order of keys, white space and the escapes of strings do not matter. All else does: every field, null or absent,
    the order of arrays, each code point of a text (no Unicode normalization), each digit of a number (1 is not 1.0).
    Parsers differ on keys that stand twice in an object, which some hold to be so whatever their case (Go's
    encoding/json), on halves of surrogate pairs, and on -0. What nests too deep has no form either.
    """
    try:
        value = _DECODER.decode(raw)
        text = _ENCODER.encode(value)
        if not (_is_plain_escaped(raw) if b"\\" in raw and _ESCAPES.search(raw) else _is_plain(raw, value, text)):
            return None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if ignore.isdisjoint(value):
        return text
    return _ENCODER.encode({name: part for name, part in value.items() if name not in ignore})


def _is_plain(raw: bytes, value: dict[str, Any], text: bytes) -> bool:
    """Whether nothing of `raw` got lost on the way to `text`: escapes that have but one form keep their length, so
    besides white space only a key that stood twice, or the sign of -0, can make `text` shorter."""
    if len(text) != len(raw) and len(text) != len(msgspec.json.format(raw, indent=-1)):
        return False
    # The same once more for keys that are one when their case does not matter.
    differ = _differ_in_any_case(value)
    if differ is not None:
        return differ
    folded = text.lower() if text.isascii() else text.decode().casefold().encode()
    return len(_ENCODER.encode(_DECODER.decode(folded))) == len(folded)


def _differ_in_any_case(value: dict[str, Any]) -> bool | None:
    """Whether no object of `value` has two keys that are one when their case does not matter; None of many objects."""
    open_parts: list[Any] = [value]
    left = _FEW
    while open_parts:
        part = open_parts.pop()
        if part.__class__ is dict:
            if not left:
                return None
            left -= 1
            names = "".join(part)
            if not (names.isascii() and names.islower()) and len({name.casefold() for name in part}) != len(part):
                return False
            part = part.values()
        open_parts += [one for one in part if one.__class__ is dict or one.__class__ is list]
    return True


class _Unclear(Exception):
    """Parsers may differ on this."""


def _members(pairs: list[tuple[str, object]]) -> None:
    if len({name.casefold() for name, _ in pairs}) != len(pairs):
        raise _Unclear


def _integer(text: str) -> None:
    if text == "-0":
        raise _Unclear


_CAREFUL = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer, parse_float=str)


def _is_plain_escaped(raw: bytes) -> bool:
    """The same for bodies whose escapes change their length, at three times the price."""
    try:
        _CAREFUL.decode(raw.decode())
    except _Unclear:
        return False
    return True
